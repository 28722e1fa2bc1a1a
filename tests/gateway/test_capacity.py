"""How many connections a machine holds: the least of its limits, whichever that is."""

from __future__ import annotations

import msgspec
import pytest

from dougong.gateway import Machine, limits, read_machine

LARGE = Machine(
    processes=64,
    descriptors_soft=20_000,
    descriptors_hard=20_000,
    files_max=1 << 40,
    memory_bytes=64 << 30,
    tracked_max=0,
    queue_max=4096,
    ports=28_232,
    connections_max=19_000,
)


def test_what_the_reference_machine_is_asked_for_fits() -> None:
    (first, *_) = limits(LARGE)
    assert (first.what, first.connections) == ("gateway settings", 64 * 19_000)
    assert first.connections > 1_200_000


@pytest.mark.parametrize(
    ("field", "value", "what", "connections"),
    [
        ("descriptors_soft", 1024, "file descriptors", 64 * 924),
        ("files_max", 100_000, "open files of the machine", 93_600),
        ("memory_bytes", 5 << 30, "memory", ((5 << 30) * 8 // 10 - 64 * (48 << 20)) // 4845),
        ("memory_bytes", 1 << 30, "memory", 0),
        ("tracked_max", 65_536, "firewall", 65_536),
        ("connections_max", 10, "gateway settings", 640),
    ],
)
def test_each_limit_can_be_the_least(field: str, value: int, what: str, connections: int) -> None:
    (first, *_) = limits(msgspec.structs.replace(LARGE, **{field: value}))
    assert (first.what, first.connections) == (what, connections)


def test_a_container_has_less_than_the_machine() -> None:
    files = {"/sys/fs/cgroup/memory.max": "1000\n", "/sys/fs/cgroup/memory.current": "400\n"}
    machine = read_machine(processes=1, memory_bytes=1 << 30, connections_max=1, read=lambda path: files.get(path, ""))
    assert (machine.memory_bytes, machine.tracked_max, machine.ports) == (600, 0, 0)
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    machine = read_machine(processes=1, memory_bytes=1 << 30, connections_max=1, read=lambda path: files.get(path, ""))
    assert machine.memory_bytes == 1 << 30
