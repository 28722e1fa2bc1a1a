"""Keys of one system on one machine: made at first start, readable by their owner only.

`system.token` lets the system's own processes call each other's internal methods; `signing.json` (private, for the app
that issues tokens) and `verifying.json` (public, for all) are JWK sets. Elsewhere these files come from a secret store;
the names stay the same.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import msgspec

from dougong.errors import Unavailable
from dougong.rpc import new_signing_key

__all__ = ["Secrets", "ensure_secrets", "read_secrets"]


class Secrets(msgspec.Struct, frozen=True):
    """What a process may know; never logged."""

    system_token: str
    verifying_keys: list[dict[str, str]]
    signing_key: dict[str, str]

    def __repr__(self) -> str:
        return "Secrets(…)"


def ensure_secrets(directory: Path) -> None:
    """Create what is missing. Two processes doing so at once end up with the same files."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    _create(directory / "system.token", secrets.token_urlsafe(32).encode())
    signing = directory / "signing.json"
    if not signing.exists():
        private, _ = new_signing_key()
        _create(signing, msgspec.json.encode(private))
    private = msgspec.json.decode(signing.read_bytes(), type=dict[str, str])
    public = {name: value for name, value in private.items() if name != "d"}
    _create(directory / "verifying.json", msgspec.json.encode({"keys": [public]}))


def read_secrets(directory: Path) -> Secrets:
    """Read the files. Raises `Unavailable` naming the one that is missing."""
    try:
        keys = msgspec.json.decode((directory / "verifying.json").read_bytes(), type=dict[str, list[dict[str, str]]])
        return Secrets(
            system_token=(directory / "system.token").read_text(),
            verifying_keys=keys["keys"],
            signing_key=msgspec.json.decode((directory / "signing.json").read_bytes(), type=dict[str, str]),
        )
    except FileNotFoundError as error:
        raise Unavailable(
            f"the system's key file {error.filename} is missing; 'dougong up' or 'dougong run' creates it",
            code="secrets_missing",
        ) from error


def _create(path: Path, content: bytes) -> None:
    """Write a new file whole or not at all; an existing one is left as it is."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(temporary, path)  # atomic, fails when another process was first
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
