"""What a server and its clients take of this machine: their processes' own memory, and what the kernel keeps for them.

- Processes: the proportional share (PSS), so that pages which forked processes share count once; and what the kernel
  keeps for each of them: page tables, a stack, the table of descriptors.
- Connections: the pages of those slab caches that sockets live in, and of those that hold what the kernel notes about
  whom they are charged to. Both ends are in one kernel, so the server's part is found by having all clients vanish
  while the server is frozen (`kept_share`).

All of Slab and what is available are kept beside it, to compare with; what others do shows in them too. Whoever lists
`/proc/PID/fd` makes a name and an inode for each descriptor there, as many as there are sockets: those are taken off.
"""

from __future__ import annotations

import mmap
import re
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

__all__ = ["Sample", "kept_share", "sample"]

_CACHES = frozenset({
    "TCP", "sock_inode_cache", "dentry", "filp", "eventpoll_epi", "eventpoll_pwq", "anon_vma_chain", "ep_head",
    "lsm_inode_cache", "lsm_file_cache", "skbuff_small_head", "skbuff_head_cache", "request_sock_TCP",
    "tcp_bind_bucket", "tcp_bind2_bucket",
})  # fmt: skip
"""An idle connection's end is 2.5 KB of TCP, 0.85 of its inode, and a name, a file and a place in an epoll set.

Caches whose objects have the same size are one, under the name of the oldest: who waits for a socket (`eventpoll_pwq`)
stands in `anon_vma_chain`, and ports (`tcp_bind_bucket`) in `eventpoll_epi`."""
_NOTES = frozenset({"kmalloc-128", "kmalloc-192", "kmalloc-256", "kmalloc-512", "kmalloc-2k"})
"""Where the kernel notes, 8 bytes for each object of a page, to which control group it is charged."""
_LOOKED_AT = "proc_inode_cache"
_NAMES = ("dentry", "lsm_inode_cache")
"""Of each inode in `/proc` one of each was made for whoever looked, and none for a connection."""
_STACK_BYTES = 16 * 1024


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes, at a moment."""

    what: str
    at_s: float
    server: int
    """All its processes, the one they were forked from included, with what the kernel keeps for processes."""
    clients: int
    caches: dict[str, int]
    """Pages of slab caches. `Slab` as a whole for those who may not read /proc/slabinfo."""
    objects: dict[str, int]
    """Objects in use in them, as far as a connection's end has them to itself."""
    slab: int
    available: int
    sockets: str
    """/proc/net/sockstat, of TCP."""

    @property
    def kernel(self) -> int:
        """For connections, both ends."""
        return sum(self.caches.values())


def sample(what: str, server: Sequence[int], clients: Sequence[int]) -> Sample:
    """Read it now; takes some milliseconds per process and 20,000 connections."""
    told = {
        name: int(value) * 1024
        for name, value in re.findall(r"^(\w+): +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    }
    sockets = re.search(r"^TCP: .*$", Path("/proc/net/sockstat").read_text(), re.MULTILINE)
    caches, objects = _slabs(_slabinfo())
    return Sample(
        what=what,
        at_s=round(time.monotonic(), 3),
        server=sum(map(_process_bytes, server)),
        clients=sum(map(_process_bytes, clients)),
        caches=caches or {"Slab": told["Slab"]},
        objects=objects,
        slab=told["Slab"],
        available=told["MemAvailable"],
        sockets=sockets.group(0) if sockets else "",
    )


def kept_share(empty: Sample, whole: Sample, alone: Sample) -> float:
    """The server's part of what the kernel keeps for `whole`, both ends, when only its ends are left in `alone`.

    By objects in use: pages of the kernel hold objects of both ends, and are not given back with half of them. Where
    they cannot be read, a half: both ends are made of the same objects.
    """
    both = sum(whole.objects.values()) - sum(empty.objects.values())
    kept = sum(alone.objects.values()) - sum(empty.objects.values())
    return kept / both if both > 0 else 0.5


def _process_bytes(pid: int) -> int:
    folder = Path(f"/proc/{pid}")
    try:
        pss = re.search(r"^Pss: +(\d+) kB", (folder / "smaps_rollup").read_text(), re.MULTILINE)
        status = (folder / "status").read_text()
    except OSError:
        return 0  # it is gone
    tables = re.search(r"^VmPTE:\s+(\d+) kB", status, re.MULTILINE)
    descriptors = re.search(r"^FDSize:\s+(\d+)", status, re.MULTILINE)
    if pss is None or tables is None or descriptors is None:
        return 0  # a zombie
    return (int(pss.group(1)) + int(tables.group(1))) * 1024 + int(descriptors.group(1)) * 8 + _STACK_BYTES


def _slabinfo() -> str:
    try:
        return Path("/proc/slabinfo").read_text()
    except OSError:
        return ""  # only root may read it


def _slabs(slabinfo: str) -> tuple[dict[str, int], dict[str, int]]:
    """(bytes of pages, bytes of objects in use), by cache."""
    caches: dict[str, int] = {}
    objects: dict[str, int] = {}
    looked_at = 0
    sizes: dict[str, int] = {}
    for line in slabinfo.splitlines()[2:]:
        # name, active objects, objects, bytes of one, objects a slab, pages a slab, ..., active slabs, slabs, ...
        fields = line.split()
        name, active, sizes[fields[0]] = fields[0], int(fields[1]), int(fields[3])
        if name in _CACHES or name in _NOTES:
            caches[name] = int(fields[14]) * int(fields[5]) * mmap.PAGESIZE
        if name in _CACHES:  # notes go with their page, not with the object
            objects[name] = active * sizes[name]
        elif name == _LOOKED_AT:
            looked_at = active
    for name in _NAMES:
        if name in caches:
            caches[name] -= looked_at * sizes[name]
            objects[name] -= looked_at * sizes[name]
    return caches, objects
