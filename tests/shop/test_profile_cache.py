"""Profiles from the cache: one load at a time, nothing old after a write, no error because of the cache."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.clock import ManualClock
from dougong.errors import Invalid, Unavailable
from shop.users import Profile
from shop.users.profile_cache import CachedProfiles, Entry, MemoryCache


class Database:
    """One name for all users, and a gate that slow reads wait at after reading."""

    def __init__(self) -> None:
        self.name = "old"
        self.reads = 0
        self.there = True
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails = False

    async def load(self, user_id: int) -> Profile | None:
        self.reads += 1
        if self.fails:
            raise Unavailable("the database is away", code="store_unavailable")
        read = (
            Profile(user_id=str(user_id), email="a@x.example", name=self.name, role="customer", created_us=1)
            if self.there
            else None
        )
        await self.gate.wait()
        return read


class Broken:
    """A cache that is down."""

    async def get(self, key: str) -> Entry | None:
        raise ConnectionError("down")

    async def lease(self, key: str) -> int:
        raise ConnectionError("down")

    async def put(self, key: str, value: bytes, lease: int, *, ttl_s: float, cost_s: float) -> bool:
        raise ConnectionError("down")

    async def forget(self, key: str) -> None:
        raise ConnectionError("down")


class WithoutLeases(MemoryCache):
    """The safeguard taken away: whatever was loaded is kept."""

    async def put(self, key: str, value: bytes, lease: int, *, ttl_s: float, cost_s: float) -> bool:
        return await super().put(key, value, await self.lease(key), ttl_s=ttl_s, cost_s=cost_s)


def named(profile: Profile | None) -> str | None:
    return None if profile is None else profile.name


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def late_loader(cache: MemoryCache, clock: ManualClock) -> tuple[str | None, str | None]:
    """A write while a loader holds the old row: what is read right after it, and once the loader has come through."""
    database = Database()
    profiles = CachedProfiles(cache, database.load, clock, chance=lambda: 0.0)
    database.gate.clear()
    slow = asyncio.create_task(profiles.get(1))
    await turn()
    database.name = "new"
    await profiles.forget(1)
    database.gate.set()
    await slow
    after = named(await profiles.get(1))
    return after, named(await profiles.get(1))


async def test_a_slow_loader_cannot_put_back_what_was_written_over() -> None:
    clock = ManualClock()
    assert await late_loader(MemoryCache(clock), clock) == ("new", "new")
    assert await late_loader(WithoutLeases(clock), clock) == ("old", "old")


async def test_a_reader_after_the_write_does_not_wait_with_those_before() -> None:
    clock, database = ManualClock(), Database()
    profiles = CachedProfiles(MemoryCache(clock), database.load, clock)
    database.gate.clear()
    before = asyncio.create_task(profiles.get(1))
    await turn()
    database.name = "new"
    await profiles.forget(1)
    after = asyncio.create_task(profiles.get(1))
    await turn()
    database.gate.set()
    assert (named(await before), named(await after), named(await profiles.get(1))) == ("old", "new", "new")


async def reads_of_a_crowd(profiles: CachedProfiles, database: Database) -> int:
    database.gate.clear()
    crowd = [asyncio.create_task(profiles.get(1)) for _ in range(50)]
    await turn()
    crowd[0].cancel()  # one that gives up takes nobody with it
    await turn()
    database.gate.set()
    answers = await asyncio.gather(*crowd[1:])
    assert {named(answer) for answer in answers} == {"old"}
    return database.reads


async def test_a_crowd_costs_one_load() -> None:
    clock, database = ManualClock(), Database()
    assert await reads_of_a_crowd(CachedProfiles(MemoryCache(clock), database.load, clock), database) == 1

    class EachForThemselves(CachedProfiles):
        def _flight(self, user_id: int) -> asyncio.Task[Profile | None]:
            return asyncio.get_running_loop().create_task(self._loaded(user_id))

    database = Database()
    assert await reads_of_a_crowd(EachForThemselves(MemoryCache(clock), database.load, clock), database) == 50


async def test_nobody_is_remembered_too_but_shortly() -> None:
    clock, database = ManualClock(), Database()
    database.there = False
    profiles = CachedProfiles(MemoryCache(clock), database.load, clock, missing_ttl_s=5, chance=lambda: 0.0)
    assert [await profiles.get(1), await profiles.get(1)] == [None, None]
    assert database.reads == 1
    database.there = True
    clock.advance(5.1)
    assert named(await profiles.get(1)) == "old"


async def test_a_cache_that_is_down_costs_reads_and_no_errors() -> None:
    clock, database = ManualClock(), Database()
    profiles = CachedProfiles(Broken(), database.load, clock)
    assert named(await profiles.get(1)) == "old"
    database.name = "new"
    await profiles.forget(1)
    assert named(await profiles.get(1)) == "new"
    assert database.reads == 2


async def test_an_error_of_the_database_is_told_and_not_remembered() -> None:
    clock, database = ManualClock(), Database()
    profiles = CachedProfiles(MemoryCache(clock), database.load, clock)
    database.fails = True
    with pytest.raises(Unavailable):
        await profiles.get(1)
    database.fails = False
    assert named(await profiles.get(1)) == "old"


async def test_an_entry_is_refreshed_before_its_time_by_chance() -> None:
    clock, database = ManualClock(), Database()
    drawn = 0.0
    cache = MemoryCache(clock)
    profiles = CachedProfiles(cache, database.load, clock, ttl_s=60, chance=lambda: drawn)
    lease = await cache.lease("profile:1")
    database.gate.clear()
    first = asyncio.create_task(profiles.get(1))
    await turn()
    clock.advance(2)  # the load takes 2 s
    database.gate.set()
    await first
    assert not await cache.put("profile:1", b"", lease, ttl_s=60, cost_s=0)  # a later lease ended this one
    clock.advance(57)  # it ends 60 s after the load began
    database.name = "new"
    assert named(await profiles.get(1)) == "old"
    assert database.reads == 1
    drawn = 0.9
    assert named(await profiles.get(1)) == "old"  # nobody waits for the refresh
    await turn()
    assert (database.reads, named(await profiles.get(1))) == (2, "new")


@given(st.lists(st.integers(0, 30), max_size=100), st.integers(1, 8))
def test_memory_is_bounded(keys: list[int], entries_max: int) -> None:
    async def run() -> None:
        cache = MemoryCache(ManualClock(), entries_max=entries_max)
        for key in keys:
            await cache.put(str(key), b"x", await cache.lease(str(key)), ttl_s=60, cost_s=0)
            assert len(cache) <= entries_max
            assert await cache.get(str(key)) is not None

    asyncio.run(run())


def test_a_cache_of_nothing_is_refused() -> None:
    with pytest.raises(Invalid, match="1 or more"):
        MemoryCache(ManualClock(), entries_max=0)
