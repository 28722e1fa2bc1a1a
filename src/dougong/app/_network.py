"""How the processes of a system talk: plainly on one machine, between machines with certificates."""

from __future__ import annotations

from dougong.app._settings import RunSettings
from dougong.errors import Invalid
from dougong.registry import PROBE_S
from dougong.rpc import GrpcProbe, GrpcTransport, TlsSettings, Transport, is_loopback

__all__ = ["check_network", "network_probe", "network_transport"]


def network_transport(settings: RunSettings) -> Transport:
    """What servers and clients of a process run on. Raises `Invalid` (`tls_incomplete`)."""
    return GrpcTransport(tls=_tls(settings), insecure_network=settings.insecure_network)


def network_probe(settings: RunSettings, *, timeout_s: float = PROBE_S) -> GrpcProbe:
    """What asks those servers whether they live. Raises `Invalid` (`tls_incomplete`)."""
    return GrpcProbe(timeout_s=timeout_s, tls=_tls(settings))


def check_network(settings: RunSettings) -> None:
    """Raise `Invalid` when calls would go over a network as anybody can read them, and nobody said that they may."""
    if _tls(settings) is None and not is_loopback(settings.host) and not settings.insecure_network:
        raise Invalid(
            f"gRPC on {settings.host} without TLS: tokens would go over the network in the clear. Set DOUGONG_TLS_CA,"
            " DOUGONG_TLS_CERTIFICATE and DOUGONG_TLS_KEY; or DOUGONG_INSECURE_NETWORK=true where something else"
            " protects it (a service mesh, say)",
            code="insecure_network",
        )


def _tls(settings: RunSettings) -> TlsSettings | None:
    files = {"ca": settings.tls_ca, "certificate": settings.tls_certificate, "key": settings.tls_key}
    missing = [f"DOUGONG_TLS_{name.upper()}" for name, path in files.items() if not path]
    if len(missing) == len(files):
        return None
    if missing:
        raise Invalid(f"TLS needs three files, {', '.join(missing)} not set", code="tls_incomplete")
    return TlsSettings(**files, server_name=settings.tls_server_name)
