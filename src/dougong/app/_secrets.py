"""Keys of one system on one machine: made at first start, readable by their owner only.

`system.token` lets the system's own processes call each other's internal methods; `signing.pem` (private, for the app
that issues tokens) and `verifying.json` (public keys by id, for all) are an Ed25519 pair. Elsewhere these files come
from a secret store; their names stay the same.
"""

from __future__ import annotations

import os
import secrets
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
    """Create what is missing. Several processes doing so at once end up with the same files."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    _create(directory / "system.token", secrets.token_urlsafe(32))
    if not (directory / "signing.pem").exists():
        _create(directory / "signing.pem", JwtIssuer.new_private_key())
    if not (directory / "verifying.json").exists():
        key = (directory / "signing.pem").read_text()
        issuer = JwtIssuer(key, _KEY_ID, issuer="any", audience="any")
        _create(directory / "verifying.json", msgspec.json.encode(issuer.public_keys).decode())


def read_secrets(directory: Path, system: str) -> Secrets:
    """Read the files. Raises `Unavailable` naming the one that is missing."""
    try:
        return Secrets(
            system=system,
            system_token=(directory / "system.token").read_text(),
            signing_key=(directory / "signing.pem").read_text(),
            verifying_keys=msgspec.json.decode((directory / "verifying.json").read_bytes(), type=dict[str, str]),
        )
    except FileNotFoundError as error:
        raise Unavailable(
            f"the system's key file {error.filename} is missing; 'dougong up' or 'dougong run' creates it",
            code="secrets_missing",
        ) from error


def _create(path: Path, content: str) -> None:
    """Write a new file whole or not at all; an existing one is left as it is."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    with suppress(FileExistsError):
        os.link(temporary, path)  # atomic, fails when another process was first
    temporary.unlink()
