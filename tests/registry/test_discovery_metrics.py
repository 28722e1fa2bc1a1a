"""What discovery counts, and what it says once."""

from __future__ import annotations

import asyncio

import msgspec
from structlog.testing import capture_logs
from tests.registry.faulty import FaultyRegistry
from tests.registry.virtual import Town, run

from dougong.clock import Clock
from dougong.registry import Discovery, Instance, MemoryRegistry, instance_key
from dougong.telemetry.metrics import PROCESS

SERVICE = "metrics.v1.Orders"


def number(name: str, *labels: str) -> float:
    found = {metric.name: metric for metric in PROCESS.collect()}[name]
    return found.value(*labels)  # type: ignore[attr-defined, no-any-return]


def at(port: int) -> Instance:
    return Instance(SERVICE, f"10.0.0.1:{port}")


def test_a_life_in_numbers() -> None:
    async def tell(clock: Clock) -> None:
        invalid_before = number("dougong_registry_invalid_entries_total", SERVICE)
        registry = FaultyRegistry(MemoryRegistry(clock))
        town = Town(*(at(port).address for port in range(4)))
        for port in range(4):
            await registry.inner.put(instance_key(at(port)), msgspec.json.encode(at(port)))
        discovery = Discovery(registry, clock=clock, probe=town)
        resolver = await discovery.resolve(SERVICE)
        assert [number("dougong_registry_instances", SERVICE, kind) for kind in ("known", "called")] == [4, 4]
        assert number("dougong_registry_table_revision", SERVICE) == 4
        assert number("dougong_registry_table_stale", SERVICE) == 0

        town.living.discard(at(1).address)
        resolver.probe_failed(at(1).address)
        await asyncio.sleep(1.0)
        kinds = ("known", "called", "suspect", "dead")
        assert [number("dougong_registry_instances", SERVICE, kind) for kind in kinds] == [4, 3, 0, 1]
        assert number("dougong_registry_probes_total", "dead") >= 1

        registry.down = True
        await asyncio.sleep(10.0)
        assert number("dougong_registry_table_stale", SERVICE) == 1
        assert number("dougong_registry_watch_restarts_total", SERVICE) >= 2
        assert number("dougong_registry_table_age_seconds", SERVICE) >= 10.0  # read when it is asked for
        await asyncio.sleep(50.0)
        assert number("dougong_registry_table_age_seconds", SERVICE) >= 60.0

        registry.down = False
        await asyncio.sleep(10.0)
        for port in (2, 3):
            await registry.inner.put(instance_key(at(port)), msgspec.json.encode(at(port)))
        await registry.inner.put(f"/services/{SERVICE}/odd", b"{")
        await asyncio.sleep(0.1)
        assert number("dougong_registry_invalid_entries_total", SERVICE) == invalid_before + 1
        await discovery.close()

    before = len(PROCESS._before_render)
    run(tell)
    assert len(PROCESS._before_render) == before  # a closed discovery is not asked any more


def test_a_compaction_is_counted() -> None:
    async def tell(clock: Clock) -> None:
        registry = FaultyRegistry(MemoryRegistry(clock))
        before = number("dougong_registry_compactions_total", SERVICE)
        discovery = Discovery(registry, clock=clock)
        await discovery.resolve(SERVICE)  # listed; the watch has not begun yet
        await registry.inner.put(instance_key(at(1)), msgspec.json.encode(at(1)))
        await registry.inner.compact(1)
        await asyncio.sleep(1.0)
        assert number("dougong_registry_compactions_total", SERVICE) == before + 1
        await discovery.close()

    run(tell)


async def test_an_entry_is_named_once() -> None:
    registry = FaultyRegistry(MemoryRegistry())
    await registry.inner.put(f"/services/{SERVICE}/odd", b"{")
    discovery = Discovery(registry, refresh_s=0.02)
    with capture_logs() as logs:
        await discovery.resolve(SERVICE)
        await asyncio.sleep(0.2)
    await discovery.close()
    assert registry.calls.count("list") > 2
    (said,) = [line for line in logs if line["event"] == "entry_ignored"]
    assert said["key"] == f"/services/{SERVICE}/odd"
