"""Discovery: a table per service that follows the registry and outlives it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random

import msgspec
import pytest
from tests.registry.faulty import FaultyRegistry

from dougong.errors import Unavailable
from dougong.registry import Discovery, Instance, InstanceState, MemoryRegistry, Resolver, instance_key
from dougong.registry import discovery as discovery_module
from dougong.registry import routing as routing_module

SERVICE = "shop.v1.Orders"


def at(port: int, state: InstanceState = InstanceState.SERVING) -> Instance:
    return Instance(service=SERVICE, address=f"127.0.0.1:{port}", state=state)


@pytest.fixture
async def registry() -> AsyncIterator[FaultyRegistry]:
    made = FaultyRegistry(MemoryRegistry())
    yield made
    await made.close()


@pytest.fixture
async def discovery(registry: FaultyRegistry) -> AsyncIterator[Discovery]:
    made = Discovery(registry, random=Random(1))
    yield made
    await made.close()


async def put(registry: FaultyRegistry, instance: Instance, lease: int = 0) -> None:
    await registry.inner.put(instance_key(instance), msgspec.json.encode(instance), lease=lease)


async def until(resolver: Resolver, *ports: int) -> None:
    async with asyncio.timeout(60):
        while [instance.address for instance in resolver.instances()] != [f"127.0.0.1:{port}" for port in ports]:
            await resolver.changed(resolver.version)


async def test_resolve_knows_at_once_who_is_there(registry: FaultyRegistry, discovery: Discovery) -> None:
    await put(registry, at(1))
    resolver = await discovery.resolve(SERVICE)
    assert resolver.instances() == (at(1),)
    assert resolver.service == SERVICE
    assert resolver.revision == 1
    assert not resolver.stale


async def test_it_follows_what_happens(registry: FaultyRegistry, discovery: Discovery) -> None:
    resolver = await discovery.resolve(SERVICE)
    assert resolver.instances() == ()
    await put(registry, at(2, InstanceState.STARTING))
    await put(registry, at(1))
    await until(resolver, 1)
    await put(registry, at(2))
    await until(resolver, 1, 2)
    await put(registry, at(1, InstanceState.TERMINATING))
    await until(resolver, 2)
    assert resolver.known() == (at(1, InstanceState.TERMINATING), at(2))
    assert registry.calls == ["list", "watch"]  # incremental: nothing was listed again


async def test_one_watch_however_many_ask(registry: FaultyRegistry, discovery: Discovery) -> None:
    resolvers = await asyncio.gather(*(discovery.resolve(SERVICE) for _ in range(20)))
    assert len({id(resolver) for resolver in resolvers}) == 1
    assert discovery.resolver(SERVICE) is resolvers[0]
    await discovery.resolve("shop.v1.Users")
    await asyncio.sleep(0)
    assert sorted(registry.calls) == ["list", "list", "watch", "watch"]
    assert [resolver.service for resolver in discovery.resolvers()] == [SERVICE, "shop.v1.Users"]


async def test_a_resolver_can_be_had_without_waiting(registry: FaultyRegistry, discovery: Discovery) -> None:
    await put(registry, at(1))
    resolver = discovery.resolver(SERVICE)
    assert resolver.instances() == ()
    assert resolver.stale
    await until(resolver, 1)


async def test_wait_ready(registry: FaultyRegistry, discovery: Discovery) -> None:
    resolver = await discovery.resolve(SERVICE)
    with pytest.raises(Unavailable, match="is its app running") as raised:
        await resolver.wait_ready(timeout_s=0.01)
    assert raised.value.code == "no_instances"
    waiting = asyncio.ensure_future(resolver.wait_ready(timeout_s=10))
    await put(registry, at(1))
    assert await waiting == (at(1),)


async def test_an_unreachable_registry_leaves_the_table(registry: FaultyRegistry, discovery: Discovery) -> None:
    await put(registry, at(1))
    resolver = await discovery.resolve(SERVICE)
    await asyncio.sleep(0)
    registry.down = True
    async with asyncio.timeout(60):
        while not resolver.stale:
            await asyncio.sleep(0.001)
    assert resolver.instances() == (at(1),)
    await put(registry, at(2))
    registry.down = False
    await until(resolver, 1, 2)
    assert not resolver.stale


async def test_started_while_the_registry_is_down(registry: FaultyRegistry, discovery: Discovery) -> None:
    registry.down = True
    resolver = await discovery.resolve(SERVICE)
    assert resolver.instances() == ()
    assert resolver.stale
    assert resolver.age_s is None
    with pytest.raises(Unavailable, match="the registry cannot be reached"):
        await resolver.wait_ready(timeout_s=0.01)
    await put(registry, at(1))
    registry.down = False
    await until(resolver, 1)
    assert resolver.age_s is not None


async def test_a_compacted_watch_lists_again(
    registry: FaultyRegistry, discovery: Discovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(registry, at(1))
    resolver = await discovery.resolve(SERVICE)
    # The watch has not begun yet: what follows happens, and is forgotten, before it does.
    await put(registry, at(2))
    await registry.inner.compact(2)
    await until(resolver, 1, 2)
    assert registry.calls[:3] == ["list", "watch", "list"]


async def test_a_registry_that_hangs_without_a_word_is_found_out(
    registry: FaultyRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery_module, "LIST_S_MAX", 0.01)
    discovery = Discovery(registry, refresh_s=0.05)
    await put(registry, at(1))
    resolver = await discovery.resolve(SERVICE)
    await asyncio.sleep(0)
    registry.frozen = True
    async with asyncio.timeout(60):
        while not resolver.stale:
            await asyncio.sleep(0.001)
    assert resolver.instances() == (at(1),)
    await put(registry, at(2))
    registry.frozen = False
    await until(resolver, 1, 2)
    await discovery.close()


async def test_a_mass_of_suspects_is_looked_at_again_and_dropped(
    registry: FaultyRegistry, discovery: Discovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing_module, "SUSPECT_S", 0.05)
    lease = await registry.inner.grant(60)
    for port in (1, 2):
        await put(registry, at(port), lease.id)
    await put(registry, at(3))
    resolver = await discovery.resolve(SERVICE)
    await registry.inner.revoke(lease.id)
    async with asyncio.timeout(60):
        while not resolver.stale:
            await asyncio.sleep(0.001)
    assert len(resolver.instances()) == 3
    await until(resolver, 3)
    assert not resolver.stale


async def test_a_failed_probe_drops_a_suspect_and_wakes_who_waits(
    registry: FaultyRegistry, discovery: Discovery
) -> None:
    lease = await registry.inner.grant(60)
    for port in (1, 2):
        await put(registry, at(port), lease.id)
    await put(registry, at(3))
    resolver = await discovery.resolve(SERVICE)
    await registry.inner.revoke(lease.id)
    async with asyncio.timeout(60):
        while not resolver.stale:
            await asyncio.sleep(0.001)
    waiting = asyncio.ensure_future(resolver.changed())
    await asyncio.sleep(0)
    resolver.probe_failed(at(1).address)
    await waiting
    await until(resolver, 2, 3)


async def test_close_stops_everything_and_leaves_what_was_known(registry: FaultyRegistry) -> None:
    discovery = Discovery(registry)
    await put(registry, at(1))
    resolver = await discovery.resolve(SERVICE)
    await discovery.close()
    await discovery.close()
    await put(registry, at(2))
    await asyncio.sleep(0.03)
    assert resolver.instances() == (at(1),)
    with pytest.raises(Unavailable, match="closed"):
        await discovery.resolve(SERVICE)
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("watch")] == []


async def test_a_fault_in_one_round_does_not_end_it(registry: FaultyRegistry, discovery: Discovery) -> None:
    registry.faults = 1
    async with asyncio.timeout(60):
        resolver = await discovery.resolve(SERVICE)  # which waits for the first attempt, whatever comes of it
    await put(registry, at(1))
    await until(resolver, 1)
    await put(registry, at(2))
    await until(resolver, 1, 2)
