"""A data directory belongs to one supervisor at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from dougong.errors import Conflict, Unavailable

__all__ = ["claim_directory"]


def claim_directory(data: Path) -> int:
    """Create the directory if need be and lock it; the descriptor that holds the lock until it is closed.

    Raises `Conflict` (`already_up`) naming the process that has it, `Unavailable` when it cannot be used at all. The
    kernel lets go of the lock when its holder dies, however it dies.
    """
    try:
        data.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(data / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(
            f"data directory {data} cannot be used: {error.strerror}; choose another with --data", code="bad_data"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode() or "unknown"
        os.close(descriptor)
        raise Conflict(
            f"a system is already up on {data} (process {holder}); stop it with Ctrl-C there, "
            f"or choose another directory with --data",
            code="already_up",
        ) from None
    except OSError as error:
        os.close(descriptor)
        raise Unavailable(f"data directory {data} cannot be used: {error.strerror}", code="bad_data") from error
    return descriptor
