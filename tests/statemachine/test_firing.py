"""Events at rows: one outcome each, nothing half done, and nothing twice."""

from __future__ import annotations

from typing import Any

import pytest
from tests.statemachine.parcels import HOUR_S, Parcels, codes, drop_index, pack, packed

from dougong.clock import ManualClock
from dougong.errors import Conflict, Internal, Invalid
from dougong.statemachine import Fire, IllegalTransition, Transition, UnknownInstance
from dougong.statemachine.firing import FIRES_MAX, Firing
from dougong.statemachine.history import HistoryTable
from dougong.statemachine.rows import Rows
from dougong.store import Store, Tx

NEW = ("packed", 0)


async def table(store: Store) -> list[Any]:
    return await store.fetch_all("SELECT id, state, state_version, due_us FROM parcels ORDER BY id")


async def test_a_transition_moves_the_row_and_is_recorded(store: Store, clock: ManualClock, parcels: Parcels) -> None:
    await packed(store, parcels, [7])
    clock.advance(5)
    (outcome,) = await parcels.fire_many([Fire(7, "send", data={"by": "sea"})])
    now_us = clock.now_us()
    assert outcome == Transition(7, 1, "packed", "send", "on_the_way", now_us, data={"by": "sea"})
    assert await store.fetch_one("SELECT * FROM parcels") == (
        7, 100, now_us, "on_the_way", 1, 1, now_us + int(24 * HOUR_S * 1e6)
    )  # fmt: skip
    assert [(t.event, t.data, t.seq) for t in await parcels.history.of(7)] == [("send", {"by": "sea"}, 1)]
    assert await store.fetch_all("SELECT parcel, event FROM notes") == [(7, "send")]


async def test_each_event_has_its_own_outcome(store: Store, parcels: Parcels) -> None:
    await packed(store, parcels, [1, 2, 3])
    await packed(store, parcels, [4], weight_g=5000)
    outcomes = await parcels.fire_many(
        [
            Fire(1, "send"),
            Fire(2, "deliver"),
            Fire(99, "send"),
            Fire(3, "sned"),
            Fire("3", "send"),  # type: ignore[arg-type]
            Fire(1 << 70, "send"),
            Fire(3, "send", id="\ud800"),
            Fire(3, "send", data={1, object()}),
            Fire(3, "send", data="x" * 5000),
            Fire(3, "send", data="stumble"),
            Fire(4, "send"),
        ]
    )
    assert codes(outcomes) == [
        "on_the_way",
        "illegal_transition",
        "unknown_instance",
        "unknown_event",
        "bad_key",
        "bad_key",
        "bad_event_id",
        "bad_event_data",
        "event_data_too_large",
        "guard_failed",
        "at_customs",
    ]
    illegal = outcomes[1]
    assert isinstance(illegal, IllegalTransition)
    assert isinstance(illegal, Conflict)
    assert illegal.message == "parcel 2 is 'packed', where 'deliver' is illegal; legal are give_up, send"
    assert illegal.fields == {
        "machine": "parcel",
        "instance": 2,
        "state": "packed",
        "event": "deliver",
        "legal": "give_up send",
    }
    assert isinstance(outcomes[2], UnknownInstance)
    assert [row[1] for row in await table(store)] == ["on_the_way", "packed", "packed", "at_customs"]


async def test_a_final_state_says_so(store: Store, parcels: Parcels) -> None:
    await packed(store, parcels, [1])
    outcomes = await parcels.fire_many([Fire(1, "give_up"), Fire(1, "send")])
    assert codes(outcomes) == ["lost", "illegal_transition"]
    assert "final" in str(outcomes[1])


async def test_events_for_one_instance_happen_in_order(store: Store, parcels: Parcels) -> None:
    await packed(store, parcels, [1, 2])
    outcomes = await parcels.fire_many(
        [Fire(1, "send"), Fire(1, "return"), Fire(2, "send"), Fire(1, "send"), Fire(1, "deliver"), Fire(1, "deliver")]
    )
    assert codes(outcomes) == ["on_the_way", "packed", "on_the_way", "on_the_way", "delivered", "illegal_transition"]
    assert [(t.version, t.target) for t in await parcels.history.of(1)] == [
        (1, "on_the_way"),
        (2, "packed"),
        (3, "on_the_way"),
        (4, "delivered"),
    ]


@pytest.mark.parametrize("ids", [range(1, 601), range(2, 1202, 2), [i * i for i in range(1, 601)], [5], [9, 3, 6]])
async def test_batches_of_all_shapes(store: Store, parcels: Parcels, ids: Any) -> None:
    """Ranges, spaced ranges, lists over several statements: the same outcome, and no neighbour is touched."""
    ids = list(ids)
    others = [id_ for id_ in range(1, 1300) if id_ not in set(ids)]
    await packed(store, parcels, [*ids, *others])
    sent = await parcels.fire_many([Fire(id_, "send") for id_ in ids])
    assert codes(sent) == ["on_the_way"] * len(ids)
    back = await parcels.fire_many([Fire(id_, "return") for id_ in reversed(ids)], expecting=("on_the_way", 1))
    assert codes(back) == ["packed"] * len(ids)
    lost = await parcels.fire_many([Fire(id_, "give_up", id=f"e{id_}") for id_ in ids], expecting=("packed", 2))
    assert codes(lost) == ["lost"] * len(ids)
    assert {row[0] for row in await table(store) if row[1] == "lost"} == set(ids)
    page = await parcels.history.after(0, 10_000)
    assert len(page.items) == 3 * len(ids)
    assert {(t.instance, t.version) for t in page.items} == {(id_, v) for id_ in ids for v in (1, 2, 3)}
    for t in await parcels.history.of(ids[0]):
        assert t.id == (f"e{ids[0]}" if t.event == "give_up" else None)


async def test_too_many_at_once(parcels: Parcels) -> None:
    with pytest.raises(Invalid, match="10,000 at most"):
        await parcels.fire_many([Fire(1, "send")] * (FIRES_MAX + 1))
    assert await parcels.fire_many([]) == []


async def test_too_many_for_one_instance(store: Store, parcels: Parcels) -> None:
    await packed(store, parcels, [1, 2])
    fires = [Fire(1, event) for event in ("send", "return")] * 51
    outcomes = await parcels.fire_many([*fires, Fire(2, "send")])
    assert codes(outcomes) == [*["on_the_way", "packed"] * 50, "too_many_events", "too_many_events", "on_the_way"]


# ------------------------------------------------------------------------------------------------------ idempotent ids


async def test_an_event_id_happens_once(store: Store, clock: ManualClock, parcels: Parcels) -> None:
    await packed(store, parcels, [1, 2])
    (first,) = await parcels.fire_many([Fire(1, "send", id="evt", data=[1])])
    assert isinstance(first, Transition)
    clock.advance(60)
    await parcels.fire_many([Fire(1, "return")])
    before = await table(store)
    (again,) = await parcels.fire_many([Fire(1, "send", id="evt", data=[1])])  # legal once more, but it happened
    assert isinstance(again, Transition)
    assert again.repeated
    assert (again.version, again.at_us, again.data) == (1, first.at_us, [1])
    assert await table(store) == before
    (elsewhere,) = await parcels.fire_many([Fire(2, "send", id="evt", data=[1])])  # ids are per instance
    assert codes([elsewhere]) == ["on_the_way"]


async def test_an_event_id_twice_in_one_batch(store: Store, parcels: Parcels) -> None:
    await packed(store, parcels, [1])
    for expecting in (NEW, None):
        outcomes = await parcels.fire_many([Fire(1, "send", id="evt")] * 3, expecting=expecting)
        assert codes(outcomes) == ["on_the_way"] * 3
    assert len(await parcels.history.of(1)) == 1


async def test_another_event_under_the_same_id_is_a_conflict(store: Store, parcels: Parcels) -> None:
    await packed(store, parcels, [1])
    await parcels.fire_many([Fire(1, "send", id="evt", data={"a": 1, "b": 2})])
    outcomes = await parcels.fire_many(
        [
            Fire(1, "return", id="evt"),
            Fire(1, "send", id="evt", data={"a": 2}),
            Fire(1, "send", id="evt", data={"b": 2, "a": 1}),
        ]
    )
    assert codes(outcomes) == ["event_id_reused", "event_id_reused", "on_the_way"]
    assert "was used before for 'send'" in str(outcomes[0])
    assert "was used before with other data" in str(outcomes[1])


async def test_a_refused_event_leaves_its_id_free(store: Store, parcels: Parcels) -> None:
    await packed(store, parcels, [1])
    outcomes = await parcels.fire_many([Fire(1, "deliver", id="evt"), Fire(1, "send"), Fire(1, "deliver", id="evt")])
    assert codes(outcomes) == ["illegal_transition", "on_the_way", "delivered"]


async def test_without_looking_ids_up_an_event_happens_twice(store: Store, clock: ManualClock) -> None:
    """The ablation: event ids are kept but not looked up, and nothing in the schema stands behind that."""

    class Forgetful(HistoryTable[int]):
        async def find(self, tx: Tx, ids: Any) -> dict[Any, Any]:
            return {}

    machine = Parcels(store, clock=clock)
    await machine.start(keep_time=False)
    await packed(store, machine, [1])
    machine._firing.history.__class__ = Forgetful
    await drop_index(store, "dougong_transitions_event_ids")
    for _ in range(2):
        await machine.fire_many([Fire(1, "send", id="evt")])
        await machine.fire_many([Fire(1, "return")])
    assert [t.id for t in await machine.history.of(1)].count("evt") == 2


# ----------------------------------------------------------------------------------------------------- compare-and-set


async def test_expecting_moves_only_who_stands_there(store: Store, parcels: Parcels) -> None:
    await packed(store, parcels, range(1, 21))
    await parcels.fire_many([Fire(5, "give_up"), Fire(6, "send"), Fire(7, "send"), Fire(7, "return")])
    outcomes = await parcels.fire_many([Fire(id_, "give_up") for id_ in range(1, 23)], expecting=NEW)
    lost = ["instance_moved" if id_ in (5, 6, 7) else "lost" for id_ in range(1, 21)]
    assert codes(outcomes) == [*lost, "unknown_instance", "unknown_instance"]
    assert str(outcomes[5]) == (
        "instance_moved: parcel 6 is 'on_the_way' (version 1), no longer 'packed' (version 0); read it again and decide"
    )
    assert [t.event for t in await parcels.history.of(5)] == ["give_up"]


async def test_expecting_with_a_guard_reads_first(store: Store, parcels: Parcels) -> None:
    await packed(store, parcels, [1, 2])
    await packed(store, parcels, [3], weight_g=2000)
    await parcels.fire_many([Fire(2, "give_up")])
    outcomes = await parcels.fire_many([Fire(id_, "send") for id_ in (1, 2, 3)], expecting=NEW)
    assert codes(outcomes) == ["on_the_way", "instance_moved", "at_customs"]


async def test_expecting_what_is_illegal(store: Store, parcels: Parcels) -> None:
    await packed(store, parcels, [1])
    assert codes(await parcels.fire_many([Fire(1, "deliver")], expecting=NEW)) == ["illegal_transition"]
    assert codes(await parcels.fire_many([Fire(1, "send")], expecting=("nowhere", 3))) == ["instance_moved"]


async def test_a_repeat_is_found_behind_a_lost_compare_and_set(store: Store, parcels: Parcels) -> None:
    await packed(store, parcels, [1, 2])
    await parcels.fire_many([Fire(1, "give_up", id="evt")], expecting=NEW)
    outcomes = await parcels.fire_many([Fire(1, "give_up", id="evt"), Fire(2, "give_up", id="evt")], expecting=NEW)
    assert codes(outcomes) == ["lost", "lost"]
    assert [isinstance(o, Transition) and o.repeated for o in outcomes] == [True, False]


async def test_who_lost_is_known_even_when_the_winner_went_the_same_way(store: Store, parcels: Parcels) -> None:
    await packed(store, parcels, range(1, 11))
    await parcels.fire_many([Fire(3, "give_up")])
    outcomes = await parcels.fire_many([Fire(id_, "give_up") for id_ in range(1, 11)], expecting=NEW)
    assert [id_ for id_, code in enumerate(codes(outcomes), 1) if code != "lost"] == [3]
    assert len((await parcels.history.after(0)).items) == 10


async def test_who_lost_cannot_be_told_without_history(store: Store, parcels: Parcels) -> None:
    await packed(store, parcels, range(1, 11))
    await parcels.fire_many([Fire(3, "give_up")])
    await parcels.history.forget(up_to=1)
    with pytest.raises(Conflict, match="fire without `expecting`"):
        await store.write(lambda tx: parcels.fire(tx, [Fire(id_, "give_up") for id_ in range(1, 11)], expecting=NEW))
    assert [row[1] for row in await table(store)].count("lost") == 1
    # In units of its own it looks again, in halves, down to the one that was there before.
    outcomes = await parcels.fire_many([Fire(id_, "give_up") for id_ in range(1, 11)], expecting=NEW)
    assert [id_ for id_, code in enumerate(codes(outcomes), 1) if code != "lost"] == [3]


async def test_without_the_compare_a_payment_and_a_timeout_both_win(store: Store, clock: ManualClock) -> None:
    """The ablation: the UPDATE takes any row, and nothing in the schema stands behind it."""

    class Rash(Rows[int]):
        _compare = "(state = ? AND state_version = ? AND definition = ?) IS NOT NULL"

    machine = Parcels(store, clock=clock)
    await machine.start(keep_time=False)
    await packed(store, machine, [1])
    await drop_index(store, "dougong_transitions_versions")
    machine._firing.rows.__class__ = Rash
    seen = (await machine.find([1]))[1]
    await machine.fire_many([Fire(1, "send")])
    (late,) = await machine.fire_many([Fire(1, "give_up")], expecting=(seen.state, seen.version))
    assert codes([late]) == ["lost"]
    assert [(t.version, t.target) for t in await machine.history.of(1)] == [(1, "on_the_way"), (1, "lost")]


async def test_instances_that_others_keep_moving(store: Store, parcels: Parcels) -> None:
    """On engines with several writers a compare-and-set can be lost after reading: bounded, then a conflict."""
    await packed(store, parcels, [1])

    class Elusive(Rows[int]):
        async def move(self, tx: Tx, *args: Any) -> int:
            return 0

    parcels._firing.rows.__class__ = Elusive
    assert codes(await parcels.fire_many([Fire(1, "send")])) == ["contended"]


# ------------------------------------------------------------------------------------------------------ units, actions


async def test_fired_in_a_unit_of_the_callers_own(store: Store, parcels: Parcels) -> None:
    async def unit(tx: Tx) -> None:
        await pack(tx, parcels, [1, 2])
        outcomes = await parcels.fire(tx, [Fire(1, "give_up"), Fire(2, "give_up")], expecting=NEW)
        assert codes(outcomes) == ["lost", "lost"]
        if fail:
            raise Conflict("the caller's own reason")

    fail = True
    with pytest.raises(Conflict, match="own reason"):
        await store.write(unit)
    assert await table(store) == []
    assert (await parcels.history.after(0)).items == []
    fail = False
    await store.write(unit)
    assert [row[1] for row in await table(store)] == ["lost", "lost"]


async def test_an_action_that_fails_spoils_only_its_own_event(store: Store, parcels: Parcels) -> None:
    await packed(store, parcels, range(1, 41))
    parcels.poison = 17
    outcomes = await parcels.fire_many([Fire(id_, "send") for id_ in range(1, 41)])
    assert [id_ for id_, code in enumerate(codes(outcomes), 1) if code != "on_the_way"] == [17]
    failed = outcomes[16]
    assert isinstance(failed, Internal)
    assert failed.code == "action_failed"
    assert "poison" not in str(failed)  # the log has the reason, callers do not
    states = {row[0]: row[1] for row in await table(store)}
    assert states == {id_: "packed" if id_ == 17 else "on_the_way" for id_ in range(1, 41)}
    assert await parcels.history.of(17) == []
    parcels.poison = -1
    assert codes(await parcels.fire_many([Fire(17, "send")])) == ["on_the_way"]


async def test_an_action_that_fails_undoes_the_callers_unit(store: Store, parcels: Parcels) -> None:
    await packed(store, parcels, [1, 2])
    parcels.poison = 2
    with pytest.raises(RuntimeError, match="poison"):
        await store.write(lambda tx: parcels.fire(tx, [Fire(1, "send"), Fire(2, "send")]))
    assert [row[1] for row in await table(store)] == ["packed", "packed"]


async def test_actions_get_a_batch(store: Store, clock: ManualClock) -> None:
    calls: list[list[int]] = []

    class Counting(Parcels):
        async def note(self, tx: Tx, transitions: Any) -> None:
            calls.append([t.instance for t in transitions])

    machine = Counting(store, clock=clock)
    await machine.start(keep_time=False)
    await packed(store, machine, [1, 2, 3])
    await machine.fire_many([Fire(1, "send"), Fire(2, "give_up"), Fire(3, "send"), Fire(3, "return")])
    assert [sorted(call) for call in calls] == [[1, 2, 3]]


async def test_the_second_event_sees_what_the_first_ones_action_wrote(store: Store, clock: ManualClock) -> None:
    class Growing(Parcels):
        async def note(self, tx: Tx, transitions: Any) -> None:
            await tx.execute_many(
                "UPDATE parcels SET weight_g = 9000 WHERE id = ?", [(t.instance,) for t in transitions]
            )

    machine = Growing(store, clock=clock)
    await machine.start(keep_time=False)
    await packed(store, machine, [1])
    outcomes = await machine.fire_many([Fire(1, "send"), Fire(1, "return"), Fire(1, "send")])
    assert codes(outcomes) == ["on_the_way", "packed", "at_customs"]


async def test_find(store: Store, parcels: Parcels) -> None:
    await packed(store, parcels, [1])
    found = await parcels.find([1, 2])
    assert list(found) == [1]
    assert (found[1].state, found[1].version, found[1].columns) == ("packed", 0, {"weight_g": 100})
    assert await parcels.find([]) == {}


def test_firing_has_neither_store_nor_clock() -> None:
    assert not {"store", "clock"} & set(Firing.__init__.__annotations__)
