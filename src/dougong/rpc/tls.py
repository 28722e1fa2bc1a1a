"""Mutual TLS from files: who we are, whom we believe, and what a failed handshake means in words.

Files are read when a connection is made (by the client) and when one arrives (by the server, if they changed), so that
new certificates take effect without a restart and without breaking what is open.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

import grpc
import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from dougong.errors import Unavailable
from dougong.telemetry import get_logger

__all__ = [
    "ServerCertificates",
    "TlsSettings",
    "channel_credentials",
    "explain_handshake",
    "is_loopback",
    "server_credentials",
]

_log = get_logger("dougong.rpc")


class TlsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """PEM files. Both sides show a certificate and both check the other's against `ca`."""

    ca: str
    """Certificates of those who may sign the other side's."""
    certificate: str
    """Ours, with what leads up to one of `ca`."""
    key: str
    """Its private key, not encrypted."""
    server_name: str = ""
    """What servers' certificates are made out to; empty for the host of the address."""

    def read(self) -> tuple[bytes, bytes, bytes]:
        """(ca, certificate, key). Raises `Unavailable` (`tls_files`) naming the file and the remedy."""
        ca, certificate, key = (_read(Path(path), what) for path, what in zip(self._paths, _NAMES, strict=True))
        _check(certificate, key, Path(self.certificate), Path(self.key))
        return ca, certificate, key

    def changed(self) -> tuple[tuple[int, int, int], ...]:
        """Another value whenever a file was replaced."""
        stats = [Path(path).stat() for path in self._paths]
        return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in stats)

    @property
    def _paths(self) -> tuple[str, str, str]:
        return self.ca, self.certificate, self.key


_NAMES = ("certificates of who may sign", "certificate", "private key")


class ServerCertificates:
    """What gRPC asks, on a thread of its own, before each handshake: are there new certificates?

    New files that make no sense (half replaced, say) are logged and left alone: the ones in use stay.
    """

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._seen = settings.changed()
        self.first = self._load()

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        with self._lock:
            try:
                now = self._settings.changed()
                if now == self._seen:
                    return None
                loaded = self._load()
                self._seen = now
            except (OSError, Unavailable) as error:
                _log.error("tls_files_not_reloaded", error=str(error))
                return None
        _log.info("tls_files_reloaded", certificate=self._settings.certificate)
        return loaded

    def _load(self) -> grpc.ServerCertificateConfiguration:
        ca, certificate, key = self._settings.read()
        return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=ca)


def server_credentials(settings: TlsSettings) -> grpc.ServerCredentials:
    """For a server that takes only clients with a certificate. Raises `Unavailable` (`tls_files`)."""
    try:
        certificates = ServerCertificates(settings)
    except OSError as error:
        raise _unusable(Path(str(error.filename)), "file", error.strerror or str(error)) from error
    fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", certificates)  # None is allowed: nothing is new
    return grpc.dynamic_ssl_server_credentials(certificates.first, fetch, require_client_authentication=True)


def channel_credentials(settings: TlsSettings) -> grpc.ChannelCredentials:
    """For one connection, from the files as they are now. Raises `Unavailable` (`tls_files`)."""
    ca, certificate, key = settings.read()
    return grpc.ssl_channel_credentials(ca, key, certificate)


def is_loopback(host: str) -> bool:
    """Whether what is sent to `host` stays on this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def explain_handshake(address: str, details: str, settings: TlsSettings | None) -> Unavailable | None:
    """What gRPC's words about a connection that was not made mean; None when it is not about TLS."""
    if settings is None:
        if "Socket closed" in details or "closed before" in details or "Connection reset" in details:
            return _failed(
                "tls_refused",
                address,
                "it closed the connection at once: it may want TLS, and this client has none (TlsSettings)",
            )
        return None
    if "CERTIFICATE_VERIFY_FAILED" in details:
        reason = details.partition("CERTIFICATE_VERIFY_FAILED: ")[2].partition(": OK")[0]
        if "expired" in reason:
            return _failed("tls_expired", address, "its certificate has expired: renew it there")
        if "not yet valid" in reason:
            return _failed("tls_expired", address, "its certificate is not valid yet: are the clocks right?")
        return _failed("tls_untrusted", address, f"its certificate is not signed by any in {settings.ca} ({reason})")
    if "Hostname Verification" in details:
        name = settings.server_name or address.rpartition(":")[0]
        return _failed(
            "tls_wrong_name", address, f"its certificate is not made out to {name} (TlsSettings.server_name)"
        )
    if "WRONG_VERSION_NUMBER" in details:
        return _failed("tls_plaintext", address, "it does not speak TLS: is its server without TlsSettings?")
    if "Socket closed" in details or "Connection reset" in details:
        return _failed(
            "tls_refused", address, f"it does not accept our certificate {settings.certificate}{_problem(settings)}"
        )
    if "handshake" in details.lower():
        return _failed("tls_failed", address, details)
    return None


def _failed(code: str, address: str, reason: str) -> Unavailable:
    return Unavailable(f"no TLS connection to {address}: {reason}", code=code, address=address)


def _problem(settings: TlsSettings) -> str:
    """Why the other side may not like our certificate, as far as can be seen from here."""
    with contextlib.suppress(ValueError, OSError):
        ours = x509.load_pem_x509_certificate(Path(settings.certificate).read_bytes())
        if ours.not_valid_after_utc < dt.datetime.now(dt.UTC):
            return f": it expired on {ours.not_valid_after_utc:%Y-%m-%d}"
        return f", signed by {ours.issuer.rfc4514_string()}"
    return ""


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unusable(path, what, error.strerror or str(error)) from error


def _check(certificate: bytes, key: bytes, certificate_path: Path, key_path: Path) -> None:
    """gRPC says nothing of the kind: it fails handshakes, or tells that the port is taken."""
    try:
        ours = x509.load_pem_x509_certificates(certificate)[0].public_key()
    except ValueError as error:
        raise _unusable(certificate_path, "certificate", "it is not a certificate in PEM") from error
    try:
        fits = load_pem_private_key(key, None).public_key() == ours
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _unusable(key_path, "private key", "it is not a private key in PEM, without a password") from None
    if not fits:
        raise _unusable(key_path, "private key", f"it does not belong to {certificate_path}")


def _unusable(path: Path, what: str, reason: str) -> Unavailable:
    return Unavailable(f"the TLS {what} {path} cannot be used: {reason}", code="tls_files", file=str(path))
