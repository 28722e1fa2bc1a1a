"""Routers learn of a new map by watching, and a mover knows which of them have."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import msgspec
import pytest
from structlog.testing import capture_logs
from tests.shard.conftest import Open, add, move

from dougong.clock import ManualClock
from dougong.errors import Invalid, Unavailable
from dougong.shard import BucketState, Layout, Place, ShardedStore
from dougong.shard import watching as watching_module
from dougong.shard.routers import Router, Routers, Silence
from dougong.shard.watching import MapWatch, router_name


@pytest.fixture(autouse=True)
def only_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watches look when a test has them look."""
    monkeypatch.setattr(watching_module, "EVERY_S", 3600.0)


def watch_of(sharded: ShardedStore) -> MapWatch:
    assert sharded._watch is not None
    return sharded._watch


async def change(mover: ShardedStore, bucket: int = 1) -> int:
    """Another state for a bucket: the version of the new map."""
    await mover.refresh()
    place = mover.map.places[bucket]
    state = BucketState.MOVING if place.state is BucketState.SERVING else BucketState.SERVING
    return (await mover.maps.change(bucket, place, Place(place.shard, place.epoch, state))).version


async def test_a_router_that_watches_goes_to_the_right_database_at_once(
    layout: Layout, routers: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, watching, mover = await routers(layout), await routers(layout, watch=True), await routers(layout)
    await add(mover, 1)
    await move(mover, 1, "db-3")
    await watch_of(watching).look()
    stale: list[str] = []
    catch_up = ShardedStore.catch_up

    async def counted(self: ShardedStore, *arguments: object) -> None:
        stale.append("watching" if self is watching else "old")
        await catch_up(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ShardedStore, "catch_up", counted)
    for sharded in (watching, old):
        assert await sharded.store_of(1).fetch_one("SELECT name FROM users WHERE id = 1") == ("ada",)
    assert stale == ["old"]


async def test_the_watch_looks_by_itself_and_outlives_an_outage(
    layout: Layout, routers: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching_module, "EVERY_S", 0.01)
    before = watching_module._missed.value("users")
    watching, mover = await routers(layout, watch=True), await routers(layout)
    version, misses = watching.maps.version, 0
    learned, silent = asyncio.Event(), asyncio.Event()
    learn = watching._learn

    def learning(bucket_map: object) -> None:
        learn(bucket_map)  # type: ignore[arg-type]
        learned.set()

    async def failing() -> int:
        nonlocal misses
        misses += 1
        if misses == 3:
            silent.set()
        raise Unavailable("gone", code="connection_lost") if misses % 2 else RuntimeError("a bug")

    watching._learn = learning  # type: ignore[method-assign]
    watching.maps.version = failing  # type: ignore[method-assign]
    with capture_logs() as logs:
        await silent.wait()
        wanted = await change(mover)
        assert watching.map.version < wanted
        watching.maps.version = version  # type: ignore[method-assign]
        await learned.wait()
    assert watching.map.version == wanted
    assert [log["event"] for log in logs].count(logs[0]["event"]) == 1, "an outage is told once"
    assert watching_module._missed.value("users") == before + misses
    assert watching_module._version.value("users") <= wanted


async def test_a_mover_waits_for_those_that_do_not_know_the_map_yet(layout: Layout, routers: Open) -> None:
    one, other = await routers(layout, watch=True, router="one"), await routers(layout, watch=True, router="other")
    mover = await routers(layout)
    version = await change(mover)
    names = [watch_of(sharded).router for sharded in (one, other)]
    assert [name.partition("/")[0] for name in names] == ["one", "other"]
    assert await mover.routers_behind(version - 1) == []
    assert await mover.routers_behind(version) == names
    await watch_of(one).look()
    assert await mover.routers_behind(version) == names[1:]
    await watch_of(other).look()
    assert await mover.routers_behind(version) == []
    assert one.map.version == other.map.version == version
    newer = await change(mover)
    await one.close()
    assert await mover.routers_behind(newer) == names[1:], "who is closed is not waited for"
    await other.close()
    assert await mover.routers.live() == []


async def test_what_a_call_found_out_is_said_at_the_next_look(layout: Layout, routers: Open) -> None:
    watching, mover = await routers(layout, watch=True), await routers(layout)
    await move(mover, 1, "db-3")
    await add(watching, 1)
    version = watching.map.version
    assert len(await mover.routers_behind(version)) == 1
    await watch_of(watching).look()
    assert await mover.routers_behind(version) == []


async def test_a_dead_router_is_waited_for_no_longer_than_its_lease(layout: Layout, routers: Open) -> None:
    clock = ManualClock()
    mover = await routers(layout, clock=clock)
    dead, slow = router_name("dead"), router_name("slow")
    for name in (dead, slow):
        await mover.routers.announce(Router(name, 1, 1, 10_000, 0))
    version = await change(mover)
    assert await mover.routers_behind(version) == [dead, slow]
    clock.advance(9.9)
    assert await mover.routers_behind(version) == [dead, slow]
    await mover.routers.announce(Router(slow, 1, 2, 10_000, 0))
    clock.advance(0.2)
    assert await mover.routers_behind(version) == [slow]
    clock.advance(10.0)
    assert await mover.routers_behind(version) == []
    assert await mover.metadata.fetch_all("SELECT name FROM dougong_routers") == []
    await mover.routers.announce(Router(slow, 1, 3, 10_000, 0))  # it was only asleep
    assert await mover.routers_behind(version) == [slow]


async def test_who_removes_a_silent_router_leaves_one_that_just_spoke(layout: Layout, routers: Open) -> None:
    clock = ManualClock()
    mover = await routers(layout, clock=clock)
    await mover.routers.announce(Router("a/1", 1, 1, 1000, 0))
    await mover.routers.live()
    clock.advance(1.0)
    fetch_all = mover.metadata.fetch_all

    async def then_it_speaks(sql: str, parameters: tuple[()] = ()) -> list[tuple[object, ...]]:
        rows = await fetch_all(sql, parameters)
        await Routers(mover.metadata, now=clock.monotonic).announce(Router("a/1", 1, 2, 1000, 0))
        return rows  # type: ignore[return-value]

    mover.metadata.fetch_all = then_it_speaks  # type: ignore[method-assign, assignment]
    assert await mover.routers.live() == []
    mover.metadata.fetch_all = fetch_all  # type: ignore[method-assign]
    assert [router.beats for router in await mover.routers.live()] == [2]


def test_a_first_look_and_every_sign_of_life_begin_the_lease_anew() -> None:
    silence = Silence()

    def gone(now: float, *beats: int) -> list[str]:
        rows = [Router(f"r{at}", 1, beat, 1000, 0) for at, beat in enumerate(beats)]
        return [router.name for router in silence.gone(rows, now)]

    assert gone(5.0, 7, 7) == []
    assert gone(5.9, 7, 8) == []
    assert gone(6.0, 7, 8) == ["r0"]
    assert gone(6.9, 9, 8) == ["r1"]
    assert gone(7.0, 9) == []
    assert gone(7.0, 9, 8) == [], "a row that was away is a new one"


async def test_a_router_is_entered_before_it_reads_its_map(
    layout: Layout, routers: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a mover could look between its reading and its entering, and wait for nobody."""
    mover = await routers(layout)
    seen: list[list[str]] = []
    version = 0
    refresh = ShardedStore.refresh

    async def just_then(self: ShardedStore) -> None:
        nonlocal version
        if self is not mover and not seen:
            version = await change(mover)
            seen.append(await mover.routers_behind(version))
        await refresh(self)

    monkeypatch.setattr(ShardedStore, "refresh", just_then)
    late = await routers(layout, watch=True, router="late")
    assert [len(names) for names in seen] == [1], "it was waited for while it opened"
    assert late.map.version == version
    assert await mover.routers_behind(version) == []


async def test_a_map_that_went_back_is_not_believed_and_told_once(layout: Layout, routers: Open) -> None:
    watching, mover = await routers(layout, watch=True), await routers(layout)
    version = await change(mover)
    await watch_of(watching).look()
    await mover.metadata.write(lambda tx: tx.execute("UPDATE dougong_bucket_map SET version = 1"))
    with capture_logs() as logs:
        await watch_of(watching).look()
        await watch_of(watching).look()
    assert watching.map.version == version
    assert ["restored from a backup" in str(log["event"]) for log in logs] == [True]


async def test_closing_ends_the_watch_even_without_its_database(layout: Layout, routers: Open) -> None:
    watching = await routers(layout, watch=True)
    task = watch_of(watching)._task
    assert task is not None
    await watching.watch()  # again: it watches already
    assert watch_of(watching)._task is task

    async def gone(name: str) -> None:
        raise Unavailable("gone", code="connection_lost")

    watching.routers.leave = gone  # type: ignore[method-assign]
    with capture_logs() as logs:
        await watching.close()
    assert task.cancelled()
    assert [log["event"].partition(";")[0] for log in logs] == ["a router could not take its row away"]


async def test_a_watch_that_cannot_begin_fails_the_opening(
    layout: Layout, routers: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(self: Routers, router: Router) -> None:
        raise Unavailable("full", code="disk_full")

    monkeypatch.setattr(Routers, "announce", refused)
    with pytest.raises(Unavailable, match="full"):
        await routers(layout, watch=True)
    plain = await routers(layout)
    with pytest.raises(Unavailable, match="full"):
        await plain.watch()
    monkeypatch.undo()
    await plain.watch()
    assert [router.map_version for router in await plain.routers.live()] == [1]


@pytest.mark.parametrize("name", ["x" * 151, "a\nb", "nul\0"])
def test_a_name_that_says_nothing_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match="bad_router_name"):
        router_name(name)


async def test_hostile_names_are_names(layout: Layout, routers: Open) -> None:
    sharded = await routers(layout, watch=True, router="'; DROP TABLE dougong_routers; -- ☃" + "é" * 100)
    assert await sharded.routers_behind(2) == [watch_of(sharded).router]


ROUTE = """
import asyncio, sys
import msgspec
from dougong.shard import Layout, open_sharded_store

async def main(layout):
    sharded = await open_sharded_store(layout, watch=True, router=sys.argv[2])
    print("watching", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await sharded.close()

asyncio.run(main(msgspec.json.decode(sys.argv[1], type=Layout)))
"""


@pytest.mark.processes
async def test_processes_follow_and_one_that_is_killed_stops_nobody(
    layout: Layout, routers: Open, fresh_url: Callable[[], str]
) -> None:
    clock = ManualClock()
    mover = await routers(layout, clock=clock)
    children: list[asyncio.subprocess.Process] = []
    try:
        for name in ("killed", "living"):
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", ROUTE, msgspec.json.encode(layout).decode(), name),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            children.append(child)
            assert child.stdout is not None
            assert await child.stdout.readline() == b"watching\n"
        version = await change(mover)
        async with asyncio.timeout(60):
            while await mover.routers_behind(version):
                pass
        children[0].kill()
        await children[0].wait()
        version = await change(mover)
        async with asyncio.timeout(60):
            while len(behind := await mover.routers_behind(version)) > 1:
                pass
        assert [name.partition("/")[0] for name in behind] == ["killed"]
        clock.advance(10.0)
        assert await mover.routers_behind(version) == []
        await children[1].communicate(b"\n")
        assert await mover.routers.live() == []
    finally:
        for child in children:
            if child.returncode is None:
                child.kill()
                await child.wait()
