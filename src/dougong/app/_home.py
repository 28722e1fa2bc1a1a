"""Which data directory a process belongs to, as a short name that machines sharing a registry do not share."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

from dougong.registry import boot_id

__all__ = ["home_of"]


def home_of(data: Path) -> str:
    """The same for all processes of one data directory on one machine, until it is started anew: process ids mean
    something only there. Host names do not tell machines apart that were made from one image."""
    where = f"{socket.gethostname()}:{boot_id()}:{data.absolute()}"
    return hashlib.blake2b(where.encode(), digest_size=8).hexdigest()
