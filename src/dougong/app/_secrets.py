"""Keys of one system on one machine: made at first start, readable by their owner only.

`system.token` lets the system's own processes call each other's internal methods; `signing.pem` (private, for the app
that issues tokens) and `verifying.json` (public keys by id, for all) are an Ed25519 pair. Elsewhere these files come
from a secret store; their names stay the same.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from dougong.clock import Clock
from dougong.errors import Unavailable
from dougong.rpc import JwtAuthenticator, JwtIssuer

__all__ = ["Secrets", "ensure_secrets", "read_secrets"]

_KEY_ID = "1"


class Secrets(msgspec.Struct, frozen=True):
    """What a process may know; never logged."""

    system: str
    """Name of the system: issuer and audience of its tokens."""
    system_token: str
    signing_key: str
    verifying_keys: dict[str, str]

    def __repr__(self) -> str:
        return "Secrets(…)"

    def issuer(self, clock: Clock) -> JwtIssuer:
        """Signs tokens for users."""
        return JwtIssuer(self.signing_key, _KEY_ID, issuer=self.system, audience=self.system, clock=clock)

    def authenticator(self, clock: Clock) -> JwtAuthenticator:
        """Tells who calls."""
        return JwtAuthenticator(self.verifying_keys, self.system, self.system, self.system_token, clock=clock)


def ensure_secrets(directory: Path) -> None:
    """Create what is missing. Several processes doing so at once end up with the same files.

    Raises `Unavailable` naming the directory when it cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        _create(directory / "system.token", lambda: secrets.token_urlsafe(32))
        _create(directory / "signing.pem", JwtIssuer.new_private_key)
        _create(directory / "verifying.json", lambda: _public(directory / "signing.pem"))
    except OSError as error:
        raise Unavailable(f"keys cannot be kept in {directory}: {error.strerror}", code="secrets_unusable") from error


def read_secrets(directory: Path, system: str) -> Secrets:
    """Read the files. Raises `Unavailable` naming the one that is missing, empty or not what it should be."""
    try:
        return Secrets(
            system=system,
            system_token=_read(directory / "system.token"),
            signing_key=_read(directory / "signing.pem"),
            verifying_keys=msgspec.json.decode(_read(directory / "verifying.json"), type=dict[str, str]),
        )
    except FileNotFoundError as error:
        raise Unavailable(
            f"the system's key file {error.filename} is missing; 'dougong up' or 'dougong run' creates it",
            code="secrets_missing",
        ) from error
    except OSError as error:
        raise Unavailable(
            f"the system's key file {error.filename} cannot be read: {error.strerror}", code="secrets_unusable"
        ) from error
    except msgspec.MsgspecError as error:
        raise Unavailable(
            f"the system's key file {directory / 'verifying.json'} is not JSON of key ids and public keys: {error}; "
            f"remove it to have it made from signing.pem",
            code="secrets_unusable",
        ) from error


def _read(path: Path) -> str:
    content = path.read_text()
    if not content.strip():  # an empty token would let in whoever sends an empty one
        raise Unavailable(f"the system's key file {path} is empty; remove it to have it made", code="secrets_unusable")
    return content


def _public(signing: Path) -> str:
    issuer = JwtIssuer(_read(signing), _KEY_ID, issuer="any", audience="any")
    return msgspec.json.encode(issuer.public_keys).decode()


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
