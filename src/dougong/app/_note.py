"""What was last up on a data directory, for the commands that look at it: its system file and profile, no secrets."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from dougong.app._system import load_system
from dougong.app._urls import configured_registry_url, registry_url
from dougong.errors import Error, Unavailable

__all__ = ["UpNote", "read_note", "running_registry_url", "write_note"]

_NAME = "up.json"


class UpNote(msgspec.Struct, frozen=True):
    """How to read the configuration of the system on a data directory."""

    system: str
    """Its system file."""
    profile: str = ""


def write_note(data: Path, note: UpNote) -> None:
    """Leave it in the data directory, in the place of the one before. Raises `Unavailable` (`bad_data`)."""
    beside = data / f"{_NAME}.{os.getpid()}.new"
    try:
        beside.write_bytes(msgspec.json.encode(note))
        beside.replace(data / _NAME)
    except OSError as error:
        raise Unavailable(f"data directory {data} cannot be written: {error.strerror}", code="bad_data") from error


def read_note(data: Path) -> UpNote | None:
    """None when nothing was ever up there, or the note cannot be read: then the directory speaks for itself."""
    try:
        return msgspec.json.decode((data / _NAME).read_bytes(), type=UpNote)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def running_registry_url(data: Path) -> str:
    """The registry of the system that is, or was last, up on `data`: as the environment, its file and profile say.

    Raises what reading that file raises, when it has changed so that it cannot be read, and no other registry is there.
    """
    note = read_note(data)
    try:
        system = load_system(Path(note.system), profile=note.profile) if note is not None else None
    except Error:
        if not (data / "registry.db").exists():
            raise
        system = None
    return configured_registry_url(system) or registry_url(data)
