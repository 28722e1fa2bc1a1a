"""Keys of one system on one machine: made at first start, readable by their owner only.

`system.token` lets the system's own processes call each other's internal methods; `signing.pem` (private, for the app
that issues tokens) and `verifying.json` (public keys by id, for all) are Ed25519 keys. Elsewhere these files come from
a secret store; their names stay the same. How they change is in `_rotation`, how processes notice in `_following`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from dougong.app._keys import PublicKey, believed, decode_keys, encode_keys, new_key, same_key
from dougong.clock import Clock, SystemClock
from dougong.errors import Invalid, Unavailable
from dougong.rpc import EndedSessions, JwtAuthenticator, JwtIssuer, KeyRing, key_thumbprint

__all__ = ["SIGNING", "VERIFYING", "Secrets", "ensure_secrets", "read_keys", "read_secrets", "read_signing"]

SIGNING = "signing.pem"
VERIFYING = "verifying.json"

_READS_MAX = 5


class Secrets(msgspec.Struct, frozen=True):
    """What a process may know; never logged."""

    system: str
    """Name of the system: issuer and audience of its tokens."""
    system_token: str
    signing_key: str
    signing_kid: str
    verifying_keys: dict[str, str]
    """Those that are believed now."""

    def __repr__(self) -> str:
        return "Secrets(…)"

    def issuer(self, clock: Clock) -> JwtIssuer:
        """Signs tokens for users."""
        return JwtIssuer(self.signing_key, self.signing_kid, issuer=self.system, audience=self.system, clock=clock)

    def authenticator(
        self, clock: Clock, ended: EndedSessions | None = None, *, ring: KeyRing | None = None
    ) -> JwtAuthenticator:
        """Tells who calls, if their session is not one of those that `ended`. `ring`: keys that change later."""
        keys = self.verifying_keys if ring is None else ring
        return JwtAuthenticator(keys, self.system, self.system, self.system_token, ended=ended, clock=clock)


def ensure_secrets(directory: Path) -> None:
    """Create what is missing. Several processes doing so at once end up with the same files.

    Raises `Unavailable` naming the directory when it cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        _create(directory / "system.token", lambda: secrets.token_urlsafe(32))
        _create(directory / SIGNING, lambda: new_key()[0])
        _create(directory / VERIFYING, lambda: _public(directory / SIGNING))
    except OSError as error:
        raise Unavailable(f"keys cannot be kept in {directory}: {error.strerror}", code="secrets_unusable") from error


def read_secrets(directory: Path, system: str, clock: Clock | None = None) -> Secrets:
    """Read the files. Raises `Unavailable` naming the one that is missing, empty or not what it should be."""
    now_us = (clock if clock is not None else SystemClock()).now_us()
    token = _read(directory / "system.token")
    private, kid, keys = read_signing(directory)
    return Secrets(
        system=system,
        system_token=token,
        signing_key=private,
        signing_kid=kid,
        verifying_keys=believed(keys, now_us),
    )


def read_keys(directory: Path) -> dict[str, PublicKey]:
    """The public keys. Raises `Unavailable` naming the file and what to do about it."""
    path = directory / VERIFYING
    content = _read(path)
    try:
        keys = decode_keys(content)
        for kid, key in keys.items():
            _check(kid, key)
    except (msgspec.MsgspecError, Invalid) as error:
        why = error.message if isinstance(error, Invalid) else str(error)
        raise Unavailable(
            f"the system's key file {path} is not JSON of key ids and public keys: {why}; "
            f"remove it to have it made from {SIGNING}",
            code="secrets_unusable",
        ) from error
    if not keys:  # whoever empties it to shut all out would shut the system out as well
        raise Unavailable(
            f"the system's key file {path} names no key; remove it to have it made from {SIGNING}",
            code="secrets_unusable",
        )
    return keys


def read_signing(directory: Path) -> tuple[str, str, dict[str, PublicKey]]:
    """The private key, its id, and the public keys, among which it is. Raises `Unavailable` as `read_keys`.

    Between the two reads a rotation may replace both files: then they are read again.
    """
    path = directory / SIGNING
    private, keys = _read(path), read_keys(directory)
    for _ in range(_READS_MAX):
        again = _read(path)
        if again == private:
            break
        private, keys = again, read_keys(directory)
    try:
        kid = same_key(private, keys)
        JwtIssuer(private, kid, issuer="any", audience="any")  # a public key does not sign
    except Invalid as error:
        raise Unavailable(
            f"the system's key file {path} is not an Ed25519 private key in PEM; 'dougong keys rotate' makes a new one",
            code="secrets_unusable",
        ) from error
    if not kid:
        raise Unavailable(
            f"nobody would believe what {path} signs: its public key is not in {directory / VERIFYING}; "
            f"'dougong keys rotate' makes a new one that is",
            code="secrets_unusable",
        )
    # The one that signs has no end: somebody put an old signing.pem back.
    return private, kid, {**keys, kid: msgspec.structs.replace(keys[kid], retires_us=0)}


def _check(kid: str, key: PublicKey) -> None:
    if not kid:
        raise Invalid("a key without an id", code="key_invalid")
    KeyRing({kid: key.pem})


def _read(path: Path) -> str:
    try:
        content = path.read_text()
    except FileNotFoundError as error:
        raise Unavailable(
            f"the system's key file {path} is missing; {_remedy(path)}",
            code="secrets_missing",
        ) from error
    except OSError as error:
        raise Unavailable(
            f"the system's key file {error.filename} cannot be read: {error.strerror}", code="secrets_unusable"
        ) from error
    except UnicodeDecodeError as error:
        raise Unavailable(
            f"the system's key file {path} is not text; {_remedy(path)}",
            code="secrets_unusable",
        ) from error
    if not content.strip():  # an empty token would let in whoever sends an empty one
        raise Unavailable(
            f"the system's key file {path} is empty; {_remedy(path)}",
            code="secrets_unusable",
        )
    return content


def _remedy(path: Path) -> str:
    if path.name == SIGNING:
        return "'dougong keys rotate' makes another"
    return "remove it to have it made" if path.exists() else "'dougong up' or 'dougong run' creates it"


def _public(signing: Path) -> str:
    """What `verifying.json` says of `signing` alone; the same whoever asks, whenever."""
    kid = key_thumbprint(_read(signing))
    issuer = JwtIssuer(_read(signing), kid, issuer="any", audience="any")
    created_us = signing.stat().st_mtime_ns // 1000
    return encode_keys({kid: PublicKey(pem, created_us) for kid, pem in issuer.public_keys.items()})


def _create(path: Path, make: Callable[[], str]) -> None:
    """Write a new file whole or not at all; an existing one is left as it is."""
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(make())
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(temporary, path)  # atomic, fails when another process was first
    finally:
        temporary.unlink()
