"""What a process takes of the machine's memory."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["private_bytes", "resident_bytes"]

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    """All of it, pages that are shared with other processes included; takes 20 µs."""
    return int(_STATM.read_bytes().split()[1]) * _PAGE_BYTES


def private_bytes() -> int:
    """What no other process shares: what this one costs. The kernel walks the pages for it: not for every second."""
    rollup = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    fields = dict(line.split(":", 1) for line in rollup.splitlines()[1:])
    return sum(int(fields[name].split()[0]) for name in ("Private_Clean", "Private_Dirty")) * 1024
