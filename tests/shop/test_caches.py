"""What every cache has to do, told of the one in memory and of a real Redis with two clients, as two processes are."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import engines

from dougong.clock import ManualClock, SystemClock
from dougong.config import Secret
from dougong.errors import Invalid
from shop.users.profile_cache import Cache, MemoryCache
from shop.users.profile_cache._cache import VALUE_BYTES_MAX
from shop.users.profile_cache._redis import RedisCache
from shop.users.profile_cache._redis_url import parse_redis_url

PATIENT_S = 60.0


class Bench:
    """One cache by two ways in, and time that passes for it."""

    def __init__(self, one: Cache, other: Cache, passes: Callable[[float], Awaitable[None]]) -> None:
        self.one = one
        self.other = other
        self.passes = passes

    async def kept(self, key: str = "k", by: Cache | None = None) -> bytes | None:
        entry = await (by or self.one).get(key)
        return None if entry is None else entry.value

    async def keep(self, value: bytes, key: str = "k", *, ttl_s: float = 60.0, cost_s: float = 0.0) -> bool:
        return await self.one.put(key, value, await self.one.lease(key), ttl_s=ttl_s, cost_s=cost_s)


@asynccontextmanager
async def in_memory() -> AsyncGenerator[Bench]:
    clock = ManualClock()
    cache = MemoryCache(clock)

    async def passes(seconds: float) -> None:
        clock.advance(seconds)

    yield Bench(cache, cache, passes)


@asynccontextmanager
async def in_redis() -> AsyncGenerator[Bench]:
    options = parse_redis_url(Secret(engines.redis().url()))
    prefix = secrets.token_hex(8)
    one, other = (RedisCache(options, SystemClock(), prefix=prefix, timeout_s=PATIENT_S) for _ in range(2))
    try:
        yield Bench(one, other, asyncio.sleep)
    finally:
        await one.stop()
        await other.stop()


CACHES = {"memory": in_memory, "redis": in_redis}


@pytest.fixture(params=CACHES, scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def bench(kind: str) -> AsyncIterator[Bench]:
    async with CACHES[kind]() as bench:
        yield bench


async def test_what_is_put_is_got(bench: Bench) -> None:
    assert await bench.kept() is None
    assert await bench.keep(b"\x00 any bytes \xff", cost_s=0.25)
    for cache in bench.one, bench.other:
        entry = await cache.get("k")
        assert entry is not None
        assert (entry.value, entry.cost_s) == (b"\x00 any bytes \xff", 0.25)
        assert 0 < entry.left_s <= 60
    assert await bench.kept("other") is None


async def test_nothing_is_a_value_too(bench: Bench) -> None:
    assert await bench.keep(b"")
    assert await bench.kept() == b""


async def test_one_lease_puts_once(bench: Bench) -> None:
    lease = await bench.one.lease("k")
    assert await bench.one.put("k", b"1", lease, ttl_s=60, cost_s=0)
    assert not await bench.one.put("k", b"2", lease, ttl_s=60, cost_s=0)
    assert await bench.kept() == b"1"


async def test_a_later_lease_ends_an_earlier_one(bench: Bench) -> None:
    early, late = await bench.one.lease("k"), await bench.other.lease("k")
    assert not await bench.one.put("k", b"early", early, ttl_s=60, cost_s=0)
    assert await bench.other.put("k", b"late", late, ttl_s=60, cost_s=0)
    assert await bench.kept() == b"late"


async def test_a_lease_is_of_one_key(bench: Bench) -> None:
    lease = await bench.one.lease("k")
    assert not await bench.one.put("other", b"x", lease, ttl_s=60, cost_s=0)
    assert not await bench.one.put("k", b"x", lease + 1, ttl_s=60, cost_s=0)
    assert await bench.one.put("k", b"x", lease, ttl_s=60, cost_s=0)


async def test_forgetting_takes_entry_and_lease(bench: Bench) -> None:
    assert await bench.keep(b"old")
    lease = await bench.one.lease("k")
    assert await bench.kept() == b"old"  # a lease alone takes nothing
    await bench.other.forget("k")
    assert await bench.kept() is None
    assert not await bench.one.put("k", b"old", lease, ttl_s=60, cost_s=0)
    assert await bench.kept() is None
    await bench.one.forget("never there")


async def test_an_entry_ends(bench: Bench) -> None:
    assert await bench.keep(b"x", ttl_s=0.5)
    async with asyncio.timeout(PATIENT_S):
        while await bench.kept() is not None:
            await bench.passes(0.1)


async def test_time_counts_from_the_lease(bench: Bench) -> None:
    """What a slow load read may be as old as what a quick one did, and no older."""
    lease = await bench.one.lease("k")
    await bench.passes(0.3)
    assert await bench.one.put("k", b"slow", lease, ttl_s=60, cost_s=0)
    entry = await bench.one.get("k")
    assert entry is not None
    assert entry.left_s <= 59.8
    lease = await bench.one.lease("late")
    await bench.passes(0.3)
    assert not await bench.one.put("late", b"too slow", lease, ttl_s=0.2, cost_s=0)
    assert await bench.kept("late") is None


async def test_values_are_bounded(bench: Bench) -> None:
    assert await bench.keep(bytes(VALUE_BYTES_MAX))
    assert await bench.kept() == bytes(VALUE_BYTES_MAX)
    with pytest.raises(Invalid, match="16385"):
        await bench.keep(bytes(VALUE_BYTES_MAX + 1))
    assert await bench.kept() == bytes(VALUE_BYTES_MAX)


# What the model below is told to do: by which client, to which key, with which of the leases taken so far.
DEEDS = st.lists(
    st.tuples(
        st.sampled_from(["get", "lease", "put", "forget"]), st.booleans(), st.sampled_from("ab"), st.integers(0, 5)
    ),
    max_size=30,
)


@given(DEEDS)
def test_caches_do_what_the_model_does(kind: str, deeds: list[tuple[str, bool, str, int]]) -> None:
    async def run() -> None:
        entries: dict[str, bytes] = {}
        current: dict[str, int] = {}
        taken: list[int] = [1]  # which nobody gave
        async with CACHES[kind]() as bench:
            for number, (deed, first, key, which) in enumerate(deeds):
                cache = bench.one if first else bench.other
                if deed == "get":
                    assert await bench.kept(key, cache) == entries.get(key)
                elif deed == "lease":
                    current[key] = await cache.lease(key)
                    taken.append(current[key])
                elif deed == "forget":
                    await cache.forget(key)
                    entries.pop(key, None)
                    current.pop(key, None)
                else:
                    lease, value = taken[-1 - which % len(taken)], str(number).encode()
                    kept = await cache.put(key, value, lease, ttl_s=60, cost_s=0)
                    assert kept == (current.get(key) == lease)
                    if kept:
                        entries[key] = value
                        del current[key]

    asyncio.run(run())


async def nothing_old(bench: Bench, deeds: Sequence[tuple[str, bool]], *, leased: bool = True) -> None:
    """Loaders read a row and put it whenever they come to it; writers write it and then forget it. Whenever no writer
    is between the two, what the cache has is the row."""
    row, written = 0, 0
    loads: list[tuple[int, int]] = []
    for deed, first in deeds:
        cache = bench.one if first else bench.other
        if deed == "begin":
            loads.append((await cache.lease("k"), row))
        elif deed == "end" and loads:
            lease, read = loads.pop(0 if first else -1)
            lease = lease if leased else await cache.lease("k")
            await cache.put("k", str(read).encode(), lease, ttl_s=60, cost_s=0)
        elif deed == "write":
            row += 1
        elif deed == "forget":
            await cache.forget("k")
            written = row
        if written == row:
            for by in bench.one, bench.other:
                assert await bench.kept(by=by) in (None, str(row).encode())


@given(st.lists(st.tuples(st.sampled_from(["begin", "end", "write", "forget"]), st.booleans()), max_size=30))
def test_nothing_old_is_kept_after_a_write(kind: str, deeds: list[tuple[str, bool]]) -> None:
    async def run() -> None:
        async with CACHES[kind]() as bench:
            await nothing_old(bench, deeds)

    asyncio.run(run())


async def test_without_leases_something_old_comes_back(bench: Bench) -> None:
    late = [("begin", True), ("write", False), ("forget", False), ("end", True)]
    await nothing_old(bench, late)
    with pytest.raises(AssertionError):
        await nothing_old(bench, late, leased=False)


async def test_loaders_and_writers_all_at_once(bench: Bench) -> None:
    """The same with commands that really overtake each other."""
    row, writers = 0, 0
    numbers = itertools.count()

    async def loader() -> None:
        for _ in range(25):
            cache = bench.one if next(numbers) % 2 else bench.other
            lease, read = await cache.lease("k"), row
            await asyncio.sleep(0)
            await cache.put("k", str(read).encode(), lease, ttl_s=60, cost_s=0)

    async def writer() -> None:
        nonlocal row, writers
        for _ in range(25):
            writers += 1
            row += 1
            mine = row
            await (bench.one if next(numbers) % 2 else bench.other).forget("k")
            writers -= 1
            kept = await bench.kept()
            assert kept is None or int(kept) >= mine
            await asyncio.sleep(0)

    async with asyncio.timeout(PATIENT_S), asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(loader())
            group.create_task(writer())
    assert await bench.kept() in (None, str(row).encode())
