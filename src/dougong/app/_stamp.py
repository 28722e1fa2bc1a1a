"""Whether a file has changed since it was looked at."""

from __future__ import annotations

from pathlib import Path

__all__ = ["Stamp", "stamp_of"]

Stamp = tuple[int, int, int]


def stamp_of(path: Path) -> Stamp | None:
    """What changes with a file: it is another one, or another length, or was written later. None: it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
