"""A note under its id asks an instance to leave."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from tests.registry.faulty import FaultyRegistry
from tests.registry.virtual import run

from dougong.clock import Clock
from dougong.errors import Invalid, NotFound, Unavailable
from dougong.registry import DrainRequest, Instance, MemoryRegistry, ask_to_drain, drain_asked, find_instances


def test_who_is_asked_hears_it_and_nobody_else() -> None:
    async def tell(clock: Clock) -> None:
        registry = FaultyRegistry(MemoryRegistry(clock))
        asked = asyncio.ensure_future(drain_asked(registry, "orders-0-4711", random=Random(1)))
        other = asyncio.ensure_future(drain_asked(registry, "orders-0-471", random=Random(1)))
        await asyncio.sleep(1.0)
        await ask_to_drain(registry, DrainRequest("orders-0-4711", "new version", 5))
        assert await asked == DrainRequest("orders-0-4711", "new version", 5)
        await asyncio.sleep(600.0)
        assert not other.done()
        other.cancel()

    run(tell)


def test_asked_before_it_watched_asked_twice_and_forgotten_after_a_minute() -> None:
    async def tell(clock: Clock) -> None:
        registry = MemoryRegistry(clock)
        await ask_to_drain(registry, DrainRequest("a", "first"))
        await ask_to_drain(registry, DrainRequest("a", "second"))
        assert (await drain_asked(registry, "a")).reason == "first"
        await asyncio.sleep(61.0)
        late = asyncio.ensure_future(drain_asked(registry, "a"))
        await asyncio.sleep(600.0)
        assert not late.done()
        late.cancel()

    run(tell)


def test_the_next_of_the_same_id_is_not_asked_what_the_last_one_was() -> None:
    async def tell(clock: Clock) -> None:
        registry = MemoryRegistry(clock)
        for before in (True, False):
            asked = None if before else asyncio.ensure_future(drain_asked(registry, "a"))
            await asyncio.sleep(1.0)
            await ask_to_drain(registry, DrainRequest("a", "new version"))
            await (asked or drain_asked(registry, "a"))
            successor = asyncio.ensure_future(drain_asked(registry, "a"))
            await asyncio.sleep(30.0)
            assert not successor.done()
            successor.cancel()

    run(tell)


def test_it_is_heard_when_the_registry_comes_back() -> None:
    async def tell(clock: Clock) -> None:
        registry = FaultyRegistry(MemoryRegistry(clock))
        asked = asyncio.ensure_future(drain_asked(registry, "a", random=Random(1)))
        await asyncio.sleep(1.0)
        registry.down = True
        await asyncio.sleep(30.0)
        await ask_to_drain(registry.inner, DrainRequest("a"))
        registry.down = False
        async with asyncio.timeout(10.0):
            await asked

    run(tell)


def test_a_registry_that_hangs_is_named() -> None:
    async def tell(clock: Clock) -> None:
        registry = FaultyRegistry(MemoryRegistry(clock))
        registry.frozen = True
        with pytest.raises(Unavailable, match="registry_silent"):
            await ask_to_drain(registry, DrainRequest("a"))

    run(tell)


async def test_a_note_nobody_can_read_is_still_a_note() -> None:
    registry = MemoryRegistry()
    for note in (b"go!", b'{"id": "\xff"}'):
        await registry.put("/drains/a", note)
        assert await drain_asked(registry, "a") == DrainRequest("a")
    with pytest.raises(Invalid, match="invalid_instance_id"):
        await ask_to_drain(registry, DrainRequest("a/b"))


def test_an_instance_is_named_by_id_or_address() -> None:
    both = [Instance(s, "10.0.0.1:1", id="orders-0-7") for s in ("shop.v1.Orders", "apps.orders")]
    others = [Instance("shop.v1.Orders", "10.0.0.1:2", id="orders-1-8"), Instance("x.v1.Y", "10.0.0.1:3")]
    instances = [*both, *others]
    assert find_instances(instances, "orders-0-7") == tuple(both)
    assert find_instances(instances, "10.0.0.1:1") == tuple(both)
    with pytest.raises(NotFound, match=r"orders-0-7 \(10\.0\.0\.1:1\)"):
        find_instances(instances, "orders-0")
    with pytest.raises(Invalid, match="ambiguous_instance"):
        find_instances(instances, "10.0.0.1:3")  # without an id there is nobody to leave a note for
