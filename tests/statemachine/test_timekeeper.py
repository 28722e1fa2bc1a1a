"""Deadlines fire late, never never; they race like any other event, and share the work."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from tests.statemachine.conftest import Open
from tests.statemachine.parcels import HOUR_S, Parcels, codes, keeper, packed

from dougong.clock import ManualClock
from dougong.errors import Unavailable
from dougong.statemachine import Fire, Instance, TimekeeperSettings
from dougong.store import Store
from dougong.telemetry import counter, gauge

PATIENCE_S = 60.0


async def states(store: Store) -> dict[Any, Any]:
    return {row[0]: row[1] for row in await store.fetch_all("SELECT id, state FROM parcels")}


async def due(store: Store) -> dict[Any, Any]:
    return {row[0]: row[1] for row in await store.fetch_all("SELECT id, due_us FROM parcels")}


async def test_entering_a_state_sets_its_deadline_and_leaving_clears_it(
    store: Store, clock: ManualClock, parcels: Parcels
) -> None:
    await packed(store, parcels, [1, 2])
    start_us = clock.now_us()
    assert await due(store) == dict.fromkeys((1, 2), start_us + int(HOUR_S * 1e6))
    clock.advance(60)
    await parcels.fire_many([Fire(1, "send"), Fire(2, "give_up")])
    assert await due(store) == {1: start_us + int((60 + 24 * HOUR_S) * 1e6), 2: None}


async def test_what_is_due_is_fired_as_an_ordinary_event(store: Store, clock: ManualClock, parcels: Parcels) -> None:
    await packed(store, parcels, [1, 2, 3])
    await parcels.fire_many([Fire(2, "send")])
    time = keeper(parcels, store, clock)
    clock.advance(HOUR_S - 1)
    await time.scan()
    assert await states(store) == {1: "packed", 2: "on_the_way", 3: "packed"}
    clock.advance(2)
    await time.scan()
    assert await states(store) == {1: "lost", 2: "on_the_way", 3: "lost"}
    assert [(t.source, t.event, t.target) for t in await parcels.history.of(1)] == [("packed", "give_up", "lost")]
    assert len(await store.fetch_all("SELECT * FROM notes WHERE event = 'give_up'")) == 2  # with its action


async def test_a_large_backlog_goes_in_units(store: Store, clock: ManualClock, parcels: Parcels) -> None:
    await packed(store, parcels, range(1, 1201))
    clock.advance(HOUR_S + 1)
    time = keeper(parcels, store, clock)
    assert await time.fire_due("packed") == 500
    await time.scan()
    assert set((await states(store)).values()) == {"lost"}
    assert await time.fire_due("packed") == 0


async def test_several_processes_share_the_work(open_again: Open, store: Store, clock: ManualClock) -> None:
    """Each scans the same database through a store of its own: nothing is fired twice, and all do some of it."""
    others = [await open_again(f"other-{n}") for n in range(2)]
    stores = [store, *others]
    machines = [Parcels(each, clock=clock) for each in stores]
    for machine in machines:
        await machine.start(keep_time=False)
    await packed(store, machines[0], range(1, 1001))
    clock.advance(HOUR_S + 1)
    keepers = [
        keeper(machine, each, clock, TimekeeperSettings(rows_at_once=50))
        for machine, each in zip(machines, stores, strict=True)
    ]
    fired = [0, 0, 0]

    async def work(n: int) -> None:
        while count := await keepers[n].fire_due("packed"):
            fired[n] += count

    await asyncio.gather(*map(work, range(3)))
    assert sum(fired) == 1000
    assert min(fired) > 0
    assert len((await machines[0].history.after(0, 5000)).items) == 1000


async def test_deadlines_survive_a_restart(open_again: Open, store: Store, clock: ManualClock) -> None:
    first = Parcels(store, clock=clock, settings=TimekeeperSettings(scan_every_s=0.01))
    await first.start()
    await packed(store, first, [1])
    await first.stop()
    clock.advance(48 * HOUR_S)  # nobody is there when it passes
    reopened = await open_again("again")
    second = Parcels(reopened, clock=clock, settings=TimekeeperSettings(scan_every_s=0.01))
    await second.start()
    page = await second.history.after(0, wait_s=PATIENCE_S)
    assert [(t.event, t.target) for t in page.items] == [("give_up", "lost")]
    await second.stop()


async def test_timers_in_memory_do_not(store: Store, clock: ManualClock) -> None:
    """The ablation: a machine that keeps its deadlines in memory, as sleeping tasks, loses them with the process."""

    class Forgetful(Parcels):
        """Deadlines as tasks instead of rows."""

        def initial(self) -> tuple[str, int, int, int | None]:
            state, version, definition, _ = super().initial()
            self._spawn(self._later())
            return state, version, definition, None

        async def _later(self) -> None:
            await asyncio.sleep(HOUR_S)
            await self.fire_many([Fire(1, "give_up")])

    first = Forgetful(store, clock=clock)
    await first.start(keep_time=False)
    await packed(store, first, [1])
    await first.stop()
    clock.advance(48 * HOUR_S)
    second = Forgetful(store, clock=clock)
    await second.start(keep_time=False)
    assert await keeper(second, store, clock).fire_due("packed") == 0
    assert await states(store) == {1: "packed"}


async def test_payment_and_timeout_have_one_winner(store: Store, clock: ManualClock, parcels: Parcels) -> None:
    await packed(store, parcels, range(1, 301))
    clock.advance(HOUR_S)
    time = keeper(parcels, store, clock, TimekeeperSettings(rows_at_once=40))

    async def pay() -> list[str]:
        got: list[str] = []
        for id_ in range(300, 0, -3):
            got += codes(await parcels.fire_many([Fire(id_, "send")]))
        return got

    async def scan() -> None:
        while await time.fire_due("packed"):
            pass

    paid, _ = await asyncio.gather(pay(), scan())
    assert {"on_the_way", "illegal_transition"} == set(paid)
    after = await states(store)
    assert sorted(after.values()).count("on_the_way") == paid.count("on_the_way")
    page = await parcels.history.after(0, 1000)
    assert len(page.items) == len({t.instance for t in page.items}) == 300


async def test_an_event_that_is_no_longer_expected_does_not_fire(
    store: Store, clock: ManualClock, parcels: Parcels
) -> None:
    """What was read as due and has moved on since is let go, even where the event is legal again."""
    await packed(store, parcels, [1])
    clock.advance(HOUR_S)
    time = keeper(parcels, store, clock)
    read = await store.read(lambda tx: time._due(tx, "packed", clock.now_us()))
    await parcels.fire_many([Fire(1, "send"), Fire(1, "return")])
    fired = await store.write(lambda tx: time._fire(tx, read, clock.now_us()))
    assert [outcome.code for _, outcome in fired if isinstance(outcome, Exception)] == ["instance_moved"]
    assert await states(store) == {1: "packed"}
    assert await due(store) == {1: clock.now_us() + int(HOUR_S * 1e6)}


async def test_a_clock_moved_back_loses_no_deadline(store: Store, clock: ManualClock, parcels: Parcels) -> None:
    right_us = clock.now_us()
    clock.set_now_us(right_us + int(1000 * HOUR_S * 1e6))  # wrong by weeks
    await packed(store, parcels, [1])
    clock.set_now_us(right_us)
    time = keeper(parcels, store, clock)
    await time.scan()
    assert await due(store) == {1: right_us + int(HOUR_S * 1e6)}  # begins again
    clock.advance(HOUR_S)
    await time.scan()
    assert await states(store) == {1: "lost"}


async def test_a_clock_a_little_ahead_changes_nothing(store: Store, clock: ManualClock, parcels: Parcels) -> None:
    await packed(store, parcels, [1])
    before = await due(store)
    clock.set_now_us(clock.now_us() - 59_000_000)
    await keeper(parcels, store, clock).scan()
    assert await due(store) == before


async def test_a_clock_moved_forward_fires_what_it_says(store: Store, clock: ManualClock, parcels: Parcels) -> None:
    await packed(store, parcels, [1])
    clock.set_now_us(clock.now_us() + int(100 * HOUR_S * 1e6))
    await keeper(parcels, store, clock).scan()
    assert await states(store) == {1: "lost"}


async def test_a_guard_puts_a_deadline_off(store: Store, clock: ManualClock) -> None:
    class Watched(Parcels):
        """The same with a guarded deadline."""

        rules = tuple(
            msgspec.structs.replace(rule, guard="is_light") if rule.event == "give_up" else rule
            for rule in Parcels.rules
        )

    machine = Watched(store, clock=clock)
    await machine.start(keep_time=False)
    await packed(store, machine, [1])
    await packed(store, machine, [2], weight_g=5000)
    clock.advance(HOUR_S)
    time = keeper(machine, store, clock)
    await time.scan()
    assert await states(store) == {1: "lost", 2: "packed"}
    assert (await due(store))[2] == clock.now_us() + 30_000_000
    postponed = counter("dougong_statemachine_deadlines_postponed_total", "", labels=("machine", "event", "code"))
    assert postponed.value("parcel", "give_up", "guard_refused") >= 1
    await store.write(lambda tx: tx.execute("UPDATE parcels SET weight_g = 5 WHERE id = 2"))
    clock.advance(30)
    await time.scan()
    assert await states(store) == {1: "lost", 2: "lost"}


async def test_an_action_that_fails_puts_off_only_its_own(store: Store, clock: ManualClock, parcels: Parcels) -> None:
    await packed(store, parcels, range(1, 31))
    parcels.poison = 11
    clock.advance(HOUR_S)
    time = keeper(parcels, store, clock)
    await time.scan()
    assert [id_ for id_, state in (await states(store)).items() if state != "lost"] == [11]
    assert (await due(store))[11] == clock.now_us() + 30_000_000
    parcels.poison = -1
    clock.advance(31)
    await time.scan()
    assert set((await states(store)).values()) == {"lost"}


async def test_durations_of_a_deployment(store: Store, clock: ManualClock) -> None:
    machine = Parcels(store, clock=clock, deadlines_s={"packed": 2.0})
    await machine.start(keep_time=False)
    await packed(store, machine, [1])
    clock.advance(2)
    await keeper(machine, store, clock).scan()
    assert await states(store) == {1: "lost"}


async def test_overdue_is_counted(store: Store, clock: ManualClock, parcels: Parcels) -> None:
    await packed(store, parcels, [1, 2, 3])
    clock.advance(HOUR_S)
    time = keeper(parcels, store, clock)
    await time.scan()
    overdue = gauge("dougong_statemachine_overdue", "", labels=("machine", "state"))
    assert overdue.value("parcel", "packed") == 3
    await time.scan()
    assert overdue.value("parcel", "packed") == 0


async def test_the_loops_outlive_faults(store: Store, clock: ManualClock) -> None:
    """A database that is gone for a while, and a bug, delay what is due; they do not end the loop."""
    machine = Parcels(store, clock=clock)
    await machine.start(keep_time=False)
    await packed(store, machine, [1])
    clock.advance(HOUR_S)
    faults: list[Exception] = [Unavailable("the disk is full", code="disk_full"), ZeroDivisionError("a bug")]
    time = keeper(machine, store, clock, TimekeeperSettings(scan_every_s=0.001))
    scan = time.scan

    async def faulty() -> float:
        if faults:
            raise faults.pop()
        return await scan()

    time.scan = faulty  # type: ignore[method-assign]
    task = asyncio.create_task(time.fire_deadlines())
    page = await machine.history.after(0, wait_s=PATIENCE_S)
    assert [t.target for t in page.items] == ["lost"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_instances_are_plain_values() -> None:
    assert Instance(1, "packed", 0, 1, None).columns == {}
