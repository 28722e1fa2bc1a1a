"""How many connections a machine can hold, before anybody connects: the least of what each of its limits allows.

    connections = min(descriptors, files of the machine, memory, tracked by the firewall, settings)

What one costs was measured (decision 0050), over loopback and idle: who writes much, or reads slowly, costs more.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import msgspec

__all__ = ["Limit", "Machine", "limits", "read_machine"]

USER_BYTES = 645
KERNEL_BYTES = 4200
"""One end of a connection."""
PROCESS_BYTES = 48 << 20
"""A worker that holds nobody yet."""
OWN_DESCRIPTORS = 100
"""Of a process: listeners, databases, logs."""
MEMORY_SHARE = 0.8
"""The rest is for what waits to be written, and for everything else."""
BACKLOG = 4096

ReadFile = Callable[[str], str]
"""Text of a file; empty when there is none."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine allows. 0 stands for no limit, where there may be none."""

    processes: int
    """Gateway processes that are to run."""
    descriptors_soft: int
    descriptors_hard: int
    """Of each process."""
    files_max: int
    """Open files of the whole machine."""
    memory_bytes: int
    """Available."""
    tracked_max: int
    """Connections that the firewall remembers."""
    queue_max: int
    """Connections that wait to be accepted (somaxconn)."""
    ports: int
    """Outgoing connections to one address and port, from one address."""
    connections_max: int
    """Of each process, by its settings."""


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """What one thing allows."""

    what: str
    found: str
    connections: int
    """0: this does not limit their number."""
    remedy: str = ""


def limits(machine: Machine) -> list[Limit]:
    """What limits how many connections this machine accepts, the tightest first; then what is worth knowing."""
    m, each = machine, max(0, machine.descriptors_soft - OWN_DESCRIPTORS)
    spare = max(0, int(m.memory_bytes * MEMORY_SHARE) - m.processes * PROCESS_BYTES)
    higher = (
        f"ulimit -n {m.descriptors_hard}"
        if m.descriptors_hard > m.descriptors_soft
        else "more processes, or LimitNOFILE= of the service"
    )
    found = [
        Limit(
            what="file descriptors",
            found=f"{m.descriptors_soft:,} per process, {m.processes} processes",
            connections=m.processes * each,
            remedy=higher,
        ),
        Limit(
            what="gateway settings",
            found=f"{m.connections_max:,} per process (connections_max)",
            connections=m.processes * m.connections_max,
            remedy="raise connections_max, or run more processes",
        ),
        Limit(
            what="memory",
            found=f"{m.memory_bytes / 2**30:.1f} GiB available, {USER_BYTES + KERNEL_BYTES:,} bytes a connection",
            connections=spare // (USER_BYTES + KERNEL_BYTES),
            remedy="more memory, or fewer other processes",
        ),
    ]
    if m.files_max:
        found.append(
            Limit(
                what="open files of the machine",
                found=f"fs.file-max {m.files_max:,}",
                connections=max(0, m.files_max - m.processes * OWN_DESCRIPTORS),
                remedy="sysctl fs.file-max",
            )
        )
    if m.tracked_max:
        found.append(
            Limit(
                what="firewall",
                found=f"nf_conntrack_max {m.tracked_max:,}",
                connections=m.tracked_max,
                remedy="sysctl net.netfilter.nf_conntrack_max, or do not track the gateway's port",
            )
        )
    found.sort(key=lambda limit: limit.connections)
    short = m.queue_max < BACKLOG
    notes = [
        Limit(
            what="waiting to be accepted",
            found=f"somaxconn {m.queue_max:,}",
            connections=0,
            remedy=f"sysctl net.core.somaxconn={BACKLOG}: a rush of new connections is refused" if short else "",
        ),
        Limit(
            what="ports",
            found=f"{m.ports:,} outgoing connections from one address to one port",
            connections=0,
            remedy="for a proxy or a load generator on this machine only: give it more addresses",
        ),
    ]
    return found + notes


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""


def read_machine(*, processes: int, memory_bytes: int, connections_max: int, read: ReadFile = _read) -> Machine:
    """This machine. `memory_bytes`: what is available; a container's limit is taken from it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened_max = _number(read("/proc/sys/fs/nr_open")) or 1 << 20
    if resource.RLIM_INFINITY in (soft, hard):
        soft, hard = (opened_max if one == resource.RLIM_INFINITY else one for one in (soft, hard))
    allowed, used = _number(read("/sys/fs/cgroup/memory.max")), _number(read("/sys/fs/cgroup/memory.current"))
    if allowed:
        memory_bytes = min(memory_bytes, max(0, allowed - used))
    ports = [_number(part) for part in read("/proc/sys/net/ipv4/ip_local_port_range").split()]
    return Machine(
        processes=processes,
        descriptors_soft=soft,
        descriptors_hard=hard,
        files_max=_number(read("/proc/sys/fs/file-max")),
        memory_bytes=memory_bytes,
        tracked_max=_number(read("/proc/sys/net/netfilter/nf_conntrack_max")),
        queue_max=_number(read("/proc/sys/net/core/somaxconn")),
        ports=ports[1] - ports[0] + 1 if len(ports) == 2 else 0,
        connections_max=connections_max,
    )


def _number(text: str) -> int:
    """0 for anything else, `max` among it."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() else 0
