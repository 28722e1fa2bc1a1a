"""Definitions change while instances live."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.statemachine.parcels import HOUR_S, Parcels, codes, keeper, packed

from dougong.clock import ManualClock
from dougong.errors import Unavailable
from dougong.statemachine import Deadline, Fire, Instance, Machine, Rule, State, TimekeeperSettings
from dougong.statemachine.migrating import brought_forward
from dougong.store import Store


class ParcelsAgain(Machine[int], table="parcels", name="parcel", version=2, migrations={1: {"on_the_way": "moving"}}):
    """Version 2: a state has another name, another one has a deadline, a third has lost its own."""

    states = (
        State("packed", initial=True),
        State("moving", deadline=Deadline(24 * HOUR_S, "lose")),
        State("at_customs", deadline=Deadline(HOUR_S, "lose")),
        State("delivered", final=True),
        State("lost", final=True),
    )
    rules = (
        Rule("packed", "send", "moving"),
        Rule("packed", "hold", "at_customs"),
        Rule("packed", "give_up", "lost"),
        Rule("moving", "deliver", "delivered"),
        Rule(("moving", "at_customs"), "lose", "lost"),
    )


async def rows(store: Store) -> list[Any]:
    return await store.fetch_all("SELECT id, state, state_version, definition, due_us FROM parcels ORDER BY id")


async def old_and_new(store: Store, clock: ManualClock) -> tuple[Parcels, ParcelsAgain]:
    """1 packed, 2 on the way, 3 at customs, 4 lost, all under definition 1."""
    old, new = Parcels(store, clock=clock), ParcelsAgain(store, clock=clock)
    await old.start(keep_time=False)
    await new.start(keep_time=False)
    await packed(store, old, [1, 2, 4])
    await packed(store, old, [3], weight_g=5000)
    assert codes(await old.fire_many([Fire(2, "send"), Fire(3, "send"), Fire(4, "give_up")])) == [
        "on_the_way",
        "at_customs",
        "lost",
    ]
    return old, new


async def test_the_background_brings_all_forward(store: Store, clock: ManualClock) -> None:
    _, new = await old_and_new(store, clock)
    start_us = clock.now_us()
    clock.advance(60)
    time = keeper(new, store, clock, TimekeeperSettings(sweep_rows=2))
    assert await time.sweep() == 60.0  # found some: looks again soon
    assert await rows(store) == [
        (1, "packed", 0, 2, None),  # its deadline is gone
        (2, "moving", 2, 2, start_us + int(24 * HOUR_S * 1e6)),  # the deadline that was running goes on
        (3, "at_customs", 1, 2, start_us + int((60 + HOUR_S) * 1e6)),  # one that is new begins now
        (4, "lost", 1, 2, None),
    ]
    assert [(t.version, t.source, t.event, t.target) for t in await new.history.of(2)] == [
        (1, "packed", "send", "on_the_way"),
        (2, "on_the_way", "~migrate", "moving"),
    ]
    assert await time.sweep() == 3600.0


async def test_an_event_brings_its_instance_forward(store: Store, clock: ManualClock) -> None:
    _, new = await old_and_new(store, clock)
    outcomes = await new.fire_many([Fire(2, "deliver"), Fire(3, "lose"), Fire(4, "lose"), Fire(1, "return")])
    assert codes(outcomes) == ["delivered", "lost", "illegal_transition", "unknown_event"]
    assert [(row[1], row[2], row[3]) for row in await rows(store)] == [
        ("packed", 0, 1),
        ("delivered", 3, 2),
        ("lost", 2, 2),
        ("lost", 1, 2),
    ]


async def test_expecting_meets_an_older_definition(store: Store, clock: ManualClock) -> None:
    _, new = await old_and_new(store, clock)
    assert codes(await new.fire_many([Fire(1, "send")], expecting=("packed", 0))) == ["moving"]
    assert codes(await new.fire_many([Fire(2, "deliver")], expecting=("on_the_way", 1))) == ["instance_moved"]


async def test_a_due_instance_of_a_state_that_has_another_name_now(store: Store, clock: ManualClock) -> None:
    _, new = await old_and_new(store, clock)
    clock.advance(24 * HOUR_S)
    time = keeper(new, store, clock)
    await time.scan()
    await time.scan()
    assert {row[0]: row[1] for row in await rows(store)} == {1: "packed", 2: "lost", 3: "at_customs", 4: "lost"}


async def test_an_older_program_refuses_a_newer_row(store: Store, clock: ManualClock) -> None:
    old, new = await old_and_new(store, clock)
    await keeper(new, store, clock).sweep()
    before = await rows(store)
    outcomes = await old.fire_many([Fire(1, "send"), Fire(2, "deliver"), Fire(3, "return")])
    assert codes(outcomes) == ["newer_definition"] * 3
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)  # another process can serve it
    assert "definition 2, newer than 1" in str(outcomes[0])
    assert codes(await old.fire_many([Fire(1, "send")], expecting=("packed", 0))) == ["newer_definition"]
    clock.advance(100 * HOUR_S)
    await keeper(old, store, clock).scan()
    await keeper(old, store, clock).sweep()
    assert await rows(store) == before


async def test_old_and_new_programs_side_by_side(store: Store, clock: ManualClock) -> None:
    old, new = await old_and_new(store, clock)
    await keeper(new, store, clock).sweep()
    await packed(store, old, [5])
    assert codes(await old.fire_many([Fire(5, "send")])) == ["on_the_way"]
    assert codes(await new.fire_many([Fire(5, "deliver")])) == ["delivered"]
    assert [t.version for t in await new.history.of(5)] == [1, 2, 3]


async def test_a_row_that_no_migration_reads(store: Store, clock: ManualClock) -> None:
    """It is said, it hurts no neighbour, and it does not stand in the way of what is due."""
    old, new = await old_and_new(store, clock)
    await store.write(
        lambda tx: tx.execute("UPDATE parcels SET state = 'stolen', due_us = 1 WHERE id = 1")  # by hand
    )
    await store.write(lambda tx: tx.execute("UPDATE parcels SET definition = 0 WHERE id = 2"))
    assert codes(await new.fire_many([Fire(1, "lose"), Fire(2, "lose"), Fire(3, "lose")])) == [
        "no_migration",
        "no_migration",
        "lost",
    ]
    assert codes(await old.fire_many([Fire(1, "lose"), Fire(3, "lose")])) == ["unknown_state", "newer_definition"]
    await keeper(new, store, clock).sweep()
    clock.advance(100 * HOUR_S)
    time = keeper(new, store, clock)
    await time.scan()
    assert [(row[0], row[1], row[3]) for row in await rows(store)][:2] == [(1, "stolen", 1), (2, "on_the_way", 0)]
    stuck = {row[0]: row[4] for row in await rows(store)}
    assert stuck[2] == clock.now_us() + 30_000_000  # put off, with an alarm


async def test_a_deadline_that_was_forgotten_is_set(store: Store, clock: ManualClock, parcels: Parcels) -> None:
    """A row inserted by hand, or by a program that left `due_us` out."""
    await store.write(lambda tx: tx.execute("INSERT INTO parcels (id) VALUES (1)"))
    assert (await rows(store)) == [(1, "packed", 0, 1, None)]
    await keeper(parcels, store, clock).sweep()
    assert (await rows(store)) == [(1, "packed", 0, 1, clock.now_us() + int(HOUR_S * 1e6))]


@given(
    st.sampled_from(["packed", "on_the_way", "moving", "at_customs", "delivered", "nonsense"]),
    st.integers(0, 3),
    st.none() | st.integers(0, 10**9),
)
def test_bringing_forward_ends(state: str, definition: int, due_us: int | None) -> None:
    """Once is enough, the version counts only renamed states, and a newer row is never touched."""
    table = ParcelsAgain.declaration.table
    row = Instance(1, state, 5, definition, due_us)
    new = brought_forward(table, row, 7)
    if new is None:
        return
    assert definition <= 2
    assert brought_forward(table, new, 8) is None
    assert new.definition == 2
    assert new.version == 5 + (new.state != state)
    assert (new.due_us is None) == (new.state not in table.deadlines)
    assert due_us is None or new.due_us in (due_us, None)
