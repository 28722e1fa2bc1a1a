"""Whose turn it is to do what one of several processes does for all."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

__all__ = ["Turn"]


class Turn:
    """Of all processes that name the same file one has the turn. The kernel takes it from who dies, however he dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = -1

    def take(self) -> bool:
        """Whether it is ours. Raises OSError when the file cannot be had."""
        if self._lock >= 0:
            return True
        lock = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        except BaseException:
            os.close(lock)
            raise
        self._lock = lock
        return True

    def leave(self) -> None:
        """Somebody else's; again does nothing."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
