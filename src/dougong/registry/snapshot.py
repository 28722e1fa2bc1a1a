"""The last good table of each service on disk, so that a process may start while the registry is down.

One file per service, replaced as a whole: it is written beside, synced and renamed. The first line says what it is and
carries a checksum of the rest; a file that is not exactly that is named and passed over.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import msgspec

from dougong.errors import Error, Unavailable
from dougong.registry._protocol import Instance

__all__ = ["SNAPSHOT_BYTES_MAX", "FileSnapshots", "Snapshot", "Snapshots"]

SNAPSHOT_BYTES_MAX = 8 * 1024 * 1024
_HEADER = re.compile(rb"dougong-routes 1 ([0-9a-f]{64})\n")
_NAME_BYTES_MAX = 200


class Snapshot(msgspec.Struct, frozen=True):
    """A table as the registry last confirmed it."""

    service: str
    revision: int
    saved_at_us: int
    """UTC."""
    instances: tuple[Instance, ...]


class Snapshots(Protocol):
    """Keeps the last snapshot of each service."""

    async def load(self, service: str) -> Snapshot | None:
        """The last one saved; None when there is none. Raises `Unavailable` (`bad_snapshot`) when it is unusable."""

    async def save(self, snapshot: Snapshot) -> None:
        """Keep it in the place of the one before. Raises `Unavailable` (`snapshot_not_saved`); then that one stays."""


class FileSnapshots:
    """Snapshots in a directory, made when first needed. Several processes may share it: the last to write wins."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, service: str) -> Path:
        """Where a service's snapshot is."""
        name = quote(service, safe="")
        if len(name) > _NAME_BYTES_MAX:
            name = hashlib.sha256(service.encode()).hexdigest()
        return self._directory / f"{name}.routes"

    async def load(self, service: str) -> Snapshot | None:
        return await asyncio.to_thread(_read, self.path(service), service)

    async def save(self, snapshot: Snapshot) -> None:
        data = encode_snapshot(snapshot)
        if len(data) > SNAPSHOT_BYTES_MAX:
            raise Unavailable(
                f"snapshot of {snapshot.service} would have {len(data)} bytes, at most {SNAPSHOT_BYTES_MAX} are kept",
                code="snapshot_not_saved",
            )
        await asyncio.to_thread(_write, self.path(snapshot.service), data)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    body = msgspec.json.encode(snapshot)
    return b"dougong-routes 1 %s\n" % hashlib.sha256(body).hexdigest().encode() + body


def decode_snapshot(data: bytes, service: str) -> Snapshot:
    """Raises ValueError saying what is wrong."""
    header = _HEADER.match(data)
    if header is None:
        raise ValueError("it is no snapshot of this version")
    body = data[header.end() :]
    if hashlib.sha256(body).hexdigest().encode() != header[1]:
        raise ValueError("its checksum is wrong: it was cut off or changed")
    try:
        snapshot = msgspec.json.decode(body, type=Snapshot)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    if snapshot.service != service or any(i.service != service or not i.address for i in snapshot.instances):
        raise ValueError(f"it is of {snapshot.service!r}")
    return snapshot


def _read(path: Path, service: str) -> Snapshot | None:
    try:
        with path.open("rb") as file:
            data = file.read(SNAPSHOT_BYTES_MAX + 1)
        if len(data) > SNAPSHOT_BYTES_MAX:
            raise ValueError(f"it has more than {SNAPSHOT_BYTES_MAX} bytes")
        return decode_snapshot(data, service)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _bad(path, error) from error


def _write(path: Path, data: bytes) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise Unavailable(
            f"snapshot {path} could not be written: {error.strerror or error}; the one before stays",
            code="snapshot_not_saved",
        ) from error


def _bad(path: Path, error: Exception) -> Error:
    return Unavailable(f"snapshot {path} is not used: {error}; it may be deleted", code="bad_snapshot", path=str(path))
