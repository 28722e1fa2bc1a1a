"""The history is audit trail and feed: read by position, complete, forgotten on demand."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from tests.statemachine.parcels import Parcels, codes, packed

from dougong.clock import ManualClock
from dougong.errors import Invalid
from dougong.statemachine import Fire, Machine, Rule, State, history
from dougong.store import Migration, Store

PATIENCE_S = 60.0


class Vans(Machine[str], table="vans", key="plate"):
    states = (State("parked", initial=True), State("driving"), State("sold", final=True))
    rules = (Rule("parked", "go", "driving"), Rule("driving", "stop", "parked"), Rule("parked", "sell", "sold"))


async def vans(store: Store) -> Vans:
    table = "CREATE TABLE vans (plate VARCHAR(191) PRIMARY KEY);" + Vans.schema_sql(store.dialect)
    await store.migrate("vans", [Migration(1, "vans", table)])
    machine = Vans(store)
    await machine.start(keep_time=False)
    return machine


async def parked(store: Store, machine: Vans, plates: list[str]) -> None:
    rows = [(plate, *machine.initial()) for plate in plates]
    sql = "INSERT INTO vans (plate, state, state_version, definition, due_us) VALUES (?, ?, ?, ?, ?)"
    await store.write(lambda tx: tx.execute_many(sql, rows))


async def test_a_follower_reads_everything_once_in_order(store: Store, parcels: Parcels) -> None:
    await packed(store, parcels, range(1, 101))
    for event in ("send", "return", "give_up"):
        await parcels.fire_many([Fire(id_, event) for id_ in range(1, 101)])
    position, seen = 0, []
    while (page := await parcels.history.after(position, 7)).items:
        numbers = [position, *(t.seq for t in page.items)]
        assert all(below < above for below, above in pairwise(numbers))  # with gaps, on some engines
        assert page.position == numbers[-1]
        seen += [(t.instance, t.version) for t in page.items]
        position = page.position
    assert len(seen) == 300
    assert len(set(seen)) == 300
    by_instance = {id_: [version for i, version in seen if i == id_] for id_ in range(1, 101)}
    assert set(map(tuple, by_instance.values())) == {(1, 2, 3)}


async def test_machines_share_the_history_and_read_their_own(store: Store, parcels: Parcels) -> None:
    fleet = await vans(store)
    await parked(store, fleet, ["B-AD 1", "7"])
    await packed(store, parcels, [7])
    await parcels.fire_many([Fire(7, "send")])
    assert codes(await fleet.fire_many([Fire("B-AD 1", "go"), Fire("7", "go", id="x")])) == ["driving", "driving"]  # type: ignore[arg-type]
    await parcels.fire_many([Fire(7, "return", id="x")])
    first = await fleet.history.after(0, 1)
    assert (first.items, first.position) == ([], 1)  # another machine's; the position goes on
    page = await fleet.history.after(first.position, 10)
    assert [(t.instance, t.event) for t in page.items] == [("B-AD 1", "go"), ("7", "go")]
    assert page.position == 4
    assert [t.event for t in await parcels.history.of(7)] == ["send", "return"]
    assert [t.event for t in await fleet.history.of("7")] == ["go"]


async def test_a_follower_of_some_states_steps_over_the_others(store: Store, parcels: Parcels) -> None:
    fleet = await vans(store)
    await parked(store, fleet, ["A"])
    await packed(store, parcels, range(1, 11))
    await parcels.fire_many([Fire(id_, "send") for id_ in range(1, 11)])
    await fleet.fire_many([Fire("A", "go")])
    await parcels.fire_many([Fire(id_, "return") for id_ in range(1, 4)])
    returned = (await parcels.history.of(1))[-1].target
    *_, second, third = [t.seq for t in (await parcels.history.after(0)).items]
    page = await parcels.history.after(0, 2, targets=[returned])
    assert ([t.instance for t in page.items], page.position) == ([1, 2], second)
    page = await parcels.history.after(page.position, 2, targets=[returned])
    assert ([t.instance for t in page.items], page.position) == ([3], third)
    page = await parcels.history.after(page.position, 2, targets=[returned])
    assert ([*page.items], page.position) == ([], third)
    none = await fleet.history.after(0, 2, targets=["sold", "nowhere"])
    assert ([*none.items], none.position) == ([], third)


async def test_it_looks_no_further_than_a_step_at_once(
    store: Store, parcels: Parcels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "STEP_ROWS", 3)
    await packed(store, parcels, range(1, 11))
    await parcels.fire_many([Fire(id_, "send") for id_ in range(1, 11)])
    await parcels.fire_many([Fire(7, "return")])
    *_, (returned, last) = [(t.target, t.seq) for t in await parcels.history.of(7)]
    assert (await parcels.history.after(0, 9, targets=[returned])).position == 3
    page = await parcels.history.after(0, 9, wait_s=PATIENCE_S, targets=[returned])
    assert ([t.instance for t in page.items], page.position) == ([7], last)


async def test_text_keys_in_batches(store: Store) -> None:
    fleet = await vans(store)
    plates = [f"van {n}" for n in range(50)]
    await parked(store, fleet, plates)
    assert set(codes(await fleet.fire_many([Fire(p, "go") for p in plates], expecting=("parked", 0)))) == {"driving"}  # type: ignore[arg-type]
    assert {t.instance for t in (await fleet.history.after(0)).items} == set(plates)
    bad = await fleet.fire_many(
        [Fire("x" * 200, "go"), Fire("a\0b", "go"), Fire("", "go"), Fire("a ", "go"), Fire(plates[0], "stop")]
    )
    assert codes(bad) == ["bad_key", "bad_key", "bad_key", "bad_key", "parked"]  # type: ignore[arg-type]


async def test_a_follower_waits_for_news(store: Store, parcels: Parcels) -> None:
    await packed(store, parcels, [1])
    waiting = asyncio.create_task(parcels.history.after(0, wait_s=PATIENCE_S))
    also = asyncio.create_task(parcels.history.after(0, wait_s=PATIENCE_S))
    await asyncio.sleep(0)
    await parcels.fire_many([Fire(1, "send")])
    assert [len((await task).items) for task in (waiting, also)] == [1, 1]
    assert (await parcels.history.after(1, wait_s=0.0)).items == []


async def test_news_of_another_process_is_found_too(store: Store, parcels: Parcels) -> None:
    await packed(store, parcels, [1])
    waiting = asyncio.create_task(parcels.history.after(0, wait_s=PATIENCE_S))
    await asyncio.sleep(0)
    await store.write(lambda tx: parcels.fire(tx, [Fire(1, "send")]))  # wakes nobody
    assert len((await waiting).items) == 1


async def test_forgetting_up_to_a_position(store: Store, parcels: Parcels) -> None:
    await packed(store, parcels, range(1, 21))
    await parcels.fire_many([Fire(id_, "send", id="evt") for id_ in range(1, 21)])
    numbers = [t.seq for t in (await parcels.history.after(0)).items]
    assert await parcels.history.forget(up_to=numbers[14]) == 15
    assert await parcels.history.forget(up_to=numbers[14]) == 0
    assert [t.seq for t in (await parcels.history.after(0)).items] == numbers[15:]
    assert await parcels.history.forget(up_to=numbers[-1] + 1000) == 5
    await parcels.fire_many([Fire(1, "return")])
    (last,) = (await parcels.history.after(0)).items
    assert last.seq > numbers[-1]  # positions are not given again


async def test_forgetting_what_is_old(store: Store, clock: ManualClock, parcels: Parcels) -> None:
    await packed(store, parcels, [1, 2, 3])
    start_us = clock.now_us()
    await parcels.fire_many([Fire(1, "send")])
    clock.advance(10)
    await parcels.fire_many([Fire(2, "send")])
    clock.set_now_us(start_us)  # a clock set back: behind a younger row, so it stays for now
    await parcels.fire_many([Fire(3, "send")])
    assert await parcels.history.forget(before_us=start_us + 1) == 1
    assert [t.instance for t in (await parcels.history.after(0)).items] == [2, 3]


async def test_forget_wants_one_of_the_two(parcels: Parcels) -> None:
    for arguments in ({}, {"up_to": 1, "before_us": 1}):
        with pytest.raises(Invalid, match="one of the two"):
            await parcels.history.forget(**arguments)
    with pytest.raises(Invalid, match="limit must be 1 or more"):
        await parcels.history.after(0, 0)


async def test_a_name_keeps_its_kind_of_key(store: Store, parcels: Parcels) -> None:
    class Imposter(Machine[str], table="parcels", name="parcel"):
        states = Vans.states
        rules = Vans.rules

    with pytest.raises(Invalid, match="has keys of type 'int' in this database, not str"):
        await Imposter(store).start(keep_time=False)
