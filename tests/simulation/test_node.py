"""Nodes: a crash at any await, and nothing of the dead reaches the world."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from dougong.contract import Message, Service, rpc
from dougong.errors import Unavailable
from dougong.rpc import Server, client
from dougong.simulation import Chaos, Process, ProcessDied, World
from dougong.store import Migration, Tx

TABLE = Migration(1, "t", "CREATE TABLE t (what TEXT)")


class Ping(Message):
    text: str = ""


class Pinged(Service, package="test.simulation.v1"):
    """Counts pings."""

    def __init__(self, heard: list[str]) -> None:
        self._heard = heard

    @rpc(public=True)
    async def ping(self, request: Ping) -> Ping:
        """Heard."""
        self._heard.append(request.text)
        return request


def test_a_process_stands_still_and_goes_on() -> None:
    world = World(1)
    steps: list[float] = []

    async def work(_process: Process) -> None:
        while True:
            await asyncio.sleep(1.0)
            steps.append(world.now_s)

    async def main() -> None:
        node = world.node("n")
        node.start(work)
        await asyncio.sleep(2.5)
        node.stand_still()
        await asyncio.sleep(5.0)
        node.go_on()
        await asyncio.sleep(2.0)
        node.stand_still()
        node.crash()
        await asyncio.sleep(2.0)

    world.run(main())
    assert steps == [1.0, 2.0, 7.5, 8.5]


async def note(tx: Tx, what: str) -> None:
    await tx.execute("INSERT INTO t VALUES (?)", (what,))


def test_a_crash_can_come_between_any_two_callbacks() -> None:
    """Also where no time passes: after each number of steps, for some fuse."""
    reached: set[int] = set()
    for fuse in range(1, 13):
        world = World(1)
        steps: list[int] = []

        async def work(process: Process, steps: list[int] = steps) -> None:
            for number in range(10):
                steps.append(number)
                await asyncio.sleep(0)

        async def main(world: World = world, work: Any = work, fuse: int = fuse) -> None:
            world.node("n").start(work)
            world.node("n").crash(after_callbacks=fuse)
            await asyncio.sleep(1.0)

        world.run(main())
        reached.add(len(steps))
    assert reached == set(range(1, 11))


def test_nothing_the_dead_do_has_an_effect() -> None:
    world = World(1)
    heard: list[str] = []
    ran: list[str] = []

    async def serve(process: Process) -> None:
        await Server([Pinged(heard)], transport=process.transport).start("server:1")

    async def doomed(process: Process) -> None:
        store, history = process.store(), world.history
        remote = client(Pinged, "server:1", transport=process.transport, random=process.random)
        call = history.invoke("doomed", "live")
        try:
            await remote.ping(Ping(text="alive"))
            await asyncio.sleep(1000.0)
        finally:
            ran.append("finally")
            history.ok(call)
            process.note("from the grave")
            for attempt in (
                remote.ping(Ping(text="dead")),
                store.write(lambda tx: note(tx, "dead")),
                process.transport.listen("doomed:1", Server([])._endpoint),
            ):
                try:
                    await attempt
                except ProcessDied:
                    ran.append("refused")

    async def main() -> None:
        world.database("doomed").memory.migrate("t", [TABLE], 0)
        world.node("server").start(serve)
        await asyncio.sleep(0.1)
        world.node("doomed").start(doomed)
        await asyncio.sleep(1.0)
        world.node("doomed").crash()
        await asyncio.sleep(100.0)
        assert ran == []  # not before the world is over

    world.run(main())
    assert ran[0] == "finally"
    assert heard == ["alive"]
    assert world.database("doomed").rows("SELECT * FROM t") == []
    assert world.history.calls[0].ended_s is None
    assert "grave" not in world.trace()


def test_background_tasks_of_a_process_die_with_it() -> None:
    world = World(1)
    ticks: list[float] = []

    async def work(process: Process) -> None:
        async def tick() -> None:
            while True:
                await asyncio.sleep(1.0)
                ticks.append(world.now_s)

        process.tasks_kept = asyncio.create_task(tick())  # type: ignore[attr-defined]

    async def main() -> None:
        world.node("n").start(work)
        await asyncio.sleep(3.5)
        world.node("n").crash()
        await asyncio.sleep(10.0)

    world.run(main())
    assert ticks == [1.0, 2.0, 3.0]


def test_a_node_keeps_its_disk_and_its_clock_and_not_its_memory() -> None:
    world = World(1)
    lives: list[tuple[int, list[Any], int]] = []

    async def work(process: Process) -> None:
        store = process.store()
        await store.migrate("t", [TABLE])
        await store.write(lambda tx: note(tx, f"life {process.number}"))
        lives.append((process.number, await store.fetch_all("SELECT what FROM t"), process.clock.now_us()))

    async def main() -> None:
        node = world.node("n")
        node.start(work)
        await asyncio.sleep(1.0)
        node.clock.jump(-3600.0)
        node.crash()
        node.restart()
        await asyncio.sleep(1.0)

    world.run(main())
    assert [life[:2] for life in lives] == [(1, [("life 1",)]), (2, [("life 1",), ("life 2",)])]
    assert lives[1][2] < lives[0][2]


def test_a_process_that_ends_by_an_error_is_started_again() -> None:
    world = World(1)
    lives: list[int] = []

    async def work(process: Process) -> None:
        lives.append(process.number)
        if process.number < 3:
            raise Unavailable("no disk yet")

    async def main() -> None:
        world.node("n").start(work)
        await asyncio.sleep(10.0)

    world.run(main())
    assert lives == [1, 2, 3]
    assert world.failures == []


def test_a_bug_in_a_process_is_a_finding() -> None:
    world = World(1)

    async def work(process: Process) -> None:
        raise KeyError("bug")

    async def main() -> None:
        world.node("n").start(work)
        await asyncio.sleep(10.0)

    world.run(main())
    assert world.failures[0].startswith("n: its process died: KeyError('bug')")
    assert "in work" in world.failures[0]


def test_chaos_kills_and_starts_again_until_the_world_is_healed() -> None:
    world = World(1, chaos=Chaos(crash_every_s=2.0, down_s=0.5))
    lives: dict[str, list[int]] = {"n": [], "safe": []}

    async def work(process: Process) -> None:
        lives[process.name].append(process.number)
        while True:
            await asyncio.sleep(0.01)

    async def main() -> None:
        world.node("n").start(work)
        world.node("safe", crashes=False).start(work)
        await asyncio.sleep(30.0)
        world.heal()
        assert world.node("n").up
        lives["n"].append(-1)
        await asyncio.sleep(30.0)

    world.run(main())
    assert lives["safe"] == [1]
    assert len(lives["n"]) > 5
    assert lives["n"][-1] in {-1, len(lives["n"]) - 1}  # at most the one that healing started comes after it


def test_clocks_are_off_drift_and_jump() -> None:
    world = World(3, chaos=Chaos(clock_skew_s=5.0, clock_drift=0.01, clock_jump_every_s=5.0, clock_jump_s=3.0))
    seen: list[tuple[int, float]] = []

    async def work(process: Process) -> None:
        while True:
            seen.append((process.clock.now_us(), process.clock.monotonic()))
            await asyncio.sleep(0.5)

    async def main() -> None:
        world.node("n").start(work)
        await asyncio.sleep(60.0)

    world.run(main())
    steps = [after[0] - before[0] for before, after in itertools.pairwise(seen)]
    assert min(steps) < 0  # set back
    assert max(steps) > 500_000 + 100_000
    assert [at_s for _, at_s in seen] == sorted(at_s for _, at_s in seen)
    assert any("wall clock set" in fault.what for fault in world.faults.happened)


def test_a_node_that_was_stopped_stays_so() -> None:
    world = World(1)

    async def work(process: Process) -> None:
        await asyncio.sleep(100.0)

    async def main() -> None:
        world.node("n").start(work)
        world.node("n").stop()
        world.heal()
        await asyncio.sleep(10.0)
        assert not world.node("n").up

    world.run(main())
    with pytest.raises(AssertionError, match="never started"):
        World(1).node("n").restart()
