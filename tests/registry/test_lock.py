"""Locks and elections, on every registry."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.registry.faulty import FaultyRegistry

from dougong.clock import Clock, ManualClock, SystemClock
from dougong.errors import Conflict, DeadlineExceeded, Invalid, Unavailable
from dougong.registry import Election, Fence, Held, Leader, Lock, MemoryRegistry, Registry

PREFIX = "/locks/x/"


async def keys(registry: Registry) -> list[str]:
    return [item.key for item in (await registry.list(PREFIX)).items]


async def in_line(registry: Registry, count: int) -> None:
    """Wait until so many hold or want the lock."""
    async with asyncio.timeout(60):
        while len(await keys(registry)) != count:
            await asyncio.sleep(0.005)


class TestLock:
    async def test_one_after_the_other_in_the_order_they_came(self, registry: Registry) -> None:
        order: list[tuple[int, int]] = []
        first = await Lock(registry, "x").acquire()

        async def want(name: int) -> None:
            async with Lock(registry, "x").hold() as held:
                assert not held.lost
                order.append((name, held.fence))

        waiting: list[asyncio.Task[None]] = []
        for name in range(4):
            waiting.append(asyncio.ensure_future(want(name)))
            await in_line(registry, name + 2)
        assert order == []
        await first.release()
        await asyncio.gather(*waiting)
        assert [name for name, _ in order] == [0, 1, 2, 3]
        fences = [first.fence, *(fence for _, fence in order)]
        assert fences == sorted(set(fences))
        assert await keys(registry) == []

    async def test_who_waits_in_vain_leaves_nothing_behind(self, registry: Registry) -> None:
        async with Lock(registry, "x").hold() as held:
            with pytest.raises(DeadlineExceeded, match="lock_taken"):
                await Lock(registry, "x").acquire(timeout_s=0.2)
            assert await keys(registry) == [held.key]

    async def test_who_is_cancelled_while_waiting_leaves_nothing_behind(self, registry: Registry) -> None:
        async with Lock(registry, "x").hold() as held:
            waiting = asyncio.ensure_future(Lock(registry, "x").acquire())
            await in_line(registry, 2)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await keys(registry) == [held.key]

    async def test_a_lease_revoked_behind_its_back_is_noticed_at_once(self, registry: Registry) -> None:
        async with Lock(registry, "x", ttl_s=3600).hold() as held:  # the next renewal is 20 minutes away
            (item,) = (await registry.list(PREFIX)).items
            await registry.revoke(item.lease)
            async with asyncio.timeout(60):
                await held.wait_lost()
            assert held.lost
            with pytest.raises(Conflict, match="lock_lost"):
                held.check()

    async def test_a_key_taken_away_is_noticed_and_the_next_one_has_the_lock(self, registry: Registry) -> None:
        async with Lock(registry, "x").hold() as held:
            waiting = asyncio.ensure_future(Lock(registry, "x").acquire())
            await in_line(registry, 2)
            await registry.delete(held.key)
            async with asyncio.timeout(60):
                next_one = await waiting
                await held.wait_lost()
        assert next_one.fence > held.fence
        assert not next_one.lost
        await next_one.release()

    async def test_who_loses_its_place_in_the_queue_queues_again(self, registry: Registry) -> None:
        async with Lock(registry, "x").hold() as held:
            waiting = asyncio.ensure_future(Lock(registry, "x").acquire())
            await in_line(registry, 2)
            (place,) = [item for item in (await registry.list(PREFIX)).items if item.key != held.key]
            await registry.revoke(place.lease)
            async with asyncio.timeout(60):
                while {place.key, held.key} & set(await keys(registry)) != {held.key} or len(await keys(registry)) < 2:
                    await asyncio.sleep(0.005)
        async with asyncio.timeout(60):
            got = await waiting
        assert got.fence > place.create_revision
        await got.release()

    async def test_names_have_no_slash(self, registry: Registry) -> None:
        for name in ("", "a/b"):
            with pytest.raises(Invalid, match="invalid_lock_name"):
                Lock(registry, name)

    async def test_a_closed_registry_gives_no_lock(self, registry: Registry) -> None:
        await registry.close()
        with pytest.raises(Unavailable, match="closed"):
            await Lock(registry, "x").acquire()


class TestUnderFaults:
    async def test_our_own_clock_ends_it_when_the_registry_is_silent(self) -> None:
        clock = ManualClock()
        registry = FaultyRegistry(MemoryRegistry(clock))
        held = await Lock(registry, "x", ttl_s=9, clock=clock).acquire()
        registry.frozen = True
        clock.advance(8.9)
        before = held.lost
        clock.advance(0.1)
        assert (before, held.lost) == (False, True)
        registry.frozen = False
        await held.release()

    async def test_a_short_silence_is_survived(self) -> None:
        registry = FaultyRegistry(MemoryRegistry())
        held = await Lock(registry, "x", ttl_s=1.2).acquire()
        registry.down = True
        await asyncio.sleep(0.5)  # a renewal fails meanwhile
        registry.down = False
        await asyncio.sleep(1.0)  # and without one it would be over by now
        assert not held.lost
        assert registry.calls.count("keep_alive") >= 2
        await held.release()

    async def test_the_place_in_the_queue_survives_a_watch_that_breaks(self) -> None:
        registry = FaultyRegistry(MemoryRegistry())
        held = await Lock(registry, "x").acquire()
        waiting = asyncio.ensure_future(Lock(registry, "x").acquire())
        await in_line(registry, 2)
        before = await keys(registry)
        registry.down = True
        await asyncio.sleep(0.05)
        registry.down = False
        assert await keys(registry) == before
        await held.release()
        async with asyncio.timeout(60):
            got = await waiting
        assert got.key == before[1]
        await got.release()

    @pytest.mark.parametrize("step", range(1, 40))
    async def test_cancelled_anywhere_no_key_stays(self, step: int) -> None:
        """Run the acquisition callback by callback, and cancel it after `step` turns of the loop."""
        registry = MemoryRegistry()
        held = await Lock(registry, "x").acquire()

        async def want() -> None:
            async with Lock(registry, "x").hold():
                await asyncio.sleep(0)

        task = asyncio.ensure_future(want())
        for turn in range(step):
            if turn == 15:
                await held.release()
            await asyncio.sleep(0)
        if step <= 15:
            await held.release()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await keys(registry) == []

    async def test_cancelled_again_and_again_it_still_tries_to_revoke(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dougong.registry.lock.CALL_S_MAX", 0.3)
        registry = FaultyRegistry(MemoryRegistry())
        held = await Lock(registry, "x").acquire()
        registry.frozen = True
        releasing = asyncio.ensure_future(held.release())
        for _ in range(3):
            await asyncio.sleep(0.01)
            releasing.cancel()
        await asyncio.sleep(0.01)
        assert not releasing.done()  # still trying, for as long as a call may take
        with pytest.raises(asyncio.CancelledError):
            await releasing
        assert registry.calls[-1] == "revoke"


class TestFence:
    def test_who_is_over_is_refused(self) -> None:
        fence = Fence()
        fence.check(3)
        fence.check(3)
        fence.check(7)
        with pytest.raises(Conflict) as raised:
            fence.check(3)
        assert raised.value.code == "fenced"
        assert raised.value.fields == {"fence": 3, "newest": 7}


class TestElection:
    async def test_one_leads_and_everybody_knows(self, registry: Registry) -> None:
        election = Election(registry, "x")
        assert await election.leader() is None
        seen: list[Leader | None] = []

        async def look_on() -> None:
            async for leader in election.observe():
                seen[:] = [*seen, leader]

        async def until_seen(count: int) -> None:
            async with asyncio.timeout(60):
                while len(seen) < count:
                    await asyncio.sleep(0.005)

        looking = asyncio.ensure_future(look_on())
        await until_seen(1)
        one = await election.campaign(b"one")
        await until_seen(2)
        standing: asyncio.Task[Held] = asyncio.ensure_future(election.campaign(b"two"))
        await in_line(registry, 2)
        assert await election.leader() == Leader(b"one", one.fence)
        await one.release()
        two = await standing
        await until_seen(3)
        await two.release()
        await until_seen(4)
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        assert seen == [None, Leader(b"one", one.fence), Leader(b"two", two.fence), None]

    async def test_who_looks_on_survives_a_compaction(self) -> None:
        registry = MemoryRegistry(history_revisions_max=2)
        election = Election(registry, "x")
        watching = election.observe()
        assert await anext(watching) is None
        held = await election.campaign(b"one")
        for _ in range(5):
            await registry.put("/else", b"")
        assert await anext(watching) == Leader(b"one", held.fence)
        await held.release()


async def test_a_fault_in_one_round_ends_neither_renewing_nor_looking_out() -> None:
    registry = FaultyRegistry(MemoryRegistry())
    held = await Lock(registry, "x", ttl_s=1).acquire()
    renewed = registry.calls.count("keep_alive")
    registry.faults = 1
    async with asyncio.timeout(60):
        while registry.faults or registry.calls.count("keep_alive") < renewed + 3:
            await asyncio.sleep(0.005)
    assert not held.lost
    (item,) = (await registry.inner.list(PREFIX)).items
    await registry.inner.revoke(item.lease)
    async with asyncio.timeout(60):
        await held.wait_lost()
    await held.release()
    await registry.close()


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this machine cannot tell how long it was suspended")
@pytest.mark.parametrize(("clock", "lost"), [(None, True), (SystemClock(), False)])  # the second is the ablation
async def test_a_suspended_machine_loses_its_locks(
    clock: Clock | None, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = MemoryRegistry()
    held = await Lock(registry, "x", ttl_s=30, clock=clock).acquire()
    before, real = held.lost, time.clock_gettime
    monkeypatch.setattr(time, "clock_gettime", lambda of: real(of) + (31 if of == time.CLOCK_BOOTTIME else 0))
    assert (before, held.lost) == (False, lost)
    await held.release()
    await registry.close()
