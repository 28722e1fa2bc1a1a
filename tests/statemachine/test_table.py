"""A declaration is checked whole when its class is made."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.statemachine.parcels import Parcels

from dougong.statemachine import Deadline, Machine, Rule, State
from dougong.statemachine.table import compile_table, problems_of

OPEN, SHUT = State("open", initial=True), State("shut", final=True)
CLOSE = Rule("open", "close", "shut")


def problems(states: Sequence[State], rules: Sequence[Rule], version: int = 1, **migrations: dict[str, str]) -> str:
    steps = {int(name.removeprefix("from_")): renamed for name, renamed in migrations.items()}
    return "\n".join(problems_of(states, rules, version, steps))


def test_a_good_one_has_no_problems() -> None:
    assert not problems((OPEN, SHUT), (CLOSE,))


@pytest.mark.parametrize(
    ("states", "rules", "said"),
    [
        ((OPEN, OPEN, SHUT), (CLOSE,), "state 'open' is declared twice"),
        ((State("open"), SHUT), (CLOSE,), "exactly one state must be initial, not 0"),
        ((OPEN, State("ajar", initial=True), SHUT), (CLOSE,), "exactly one state must be initial, not 2 (open, ajar)"),
        ((OPEN, SHUT, State("lost", final=True)), (CLOSE,), "state 'lost' is never reached from 'open'"),
        (
            (OPEN, SHUT, State("ajar")),
            (CLOSE, Rule("open", "push", "ajar"), Rule("ajar", "rattle", "ajar")),
            "state 'ajar' is a dead end",
        ),
        ((OPEN, SHUT), (CLOSE, Rule("shut", "open", "open")), "final state 'shut' is left by an event"),
        ((OPEN, SHUT), (CLOSE, Rule((), "knock", "shut")), "event 'knock' has no source"),
        ((OPEN, SHUT), (CLOSE, Rule("open", "kick", "gone")), "there is no state 'gone'"),
        ((OPEN, SHUT), (CLOSE, Rule("gone", "kick", "shut")), "there is no state 'gone'"),
        ((OPEN, SHUT), (CLOSE, CLOSE), "'close' in 'open' was declared before"),
        (
            (OPEN, SHUT),
            (Rule("open", "close", "shut", guard="g"), Rule("open", "close", "shut", guard="g")),
            "'close' in 'open' was declared before with the guard 'g'",
        ),
        (
            (OPEN, SHUT),
            (CLOSE, Rule("open", "close", "shut", guard="g")),
            "never asked, since a rule without a guard stands above it",
        ),
        (
            (State("open", initial=True, deadline=Deadline(60, "fall")), SHUT),
            (CLOSE,),
            "the deadline of 'open' fires 'fall', illegal there",
        ),
        (
            (State("open", initial=True, deadline=Deadline(0, "close")), SHUT),
            (CLOSE,),
            "the deadline of 'open' is after 0 s",
        ),
        (
            (OPEN, State("shut", final=True, deadline=Deadline(60, "close"))),
            (CLOSE,),
            "final state 'shut' has a deadline",
        ),
        ((State("o pen", initial=True), SHUT), (Rule("o pen", "close", "shut"),), "state 'o pen' is no name"),
        ((OPEN, SHUT), (Rule("open", "~migrate", "shut"),), "event '~migrate' is no name"),
    ],
)
def test_each_problem_is_named(states: Sequence[State], rules: Sequence[Rule], said: str) -> None:
    assert said in problems(states, rules)


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(TypeError) as raised:

        class Bad(Machine[int], table="bad table", version=3, reads=("x; --",)):
            states = (State("a", initial=True), State("b"), State("c", final=True))
            rules = (Rule("a", "go", "c", guard="missing", action="find"),)

    text = str(raised.value)
    for said in (
        "machine Bad:",
        "table 'bad table' is no plain SQL name",
        "column 'x; --' is no plain SQL name",
        "state 'b' is never reached from 'a'",
        "state 'b' is a dead end",
        "version 3 needs migrations",
        "guard 'missing' is no method of the class",
        "action 'find' has the name of a method that every machine has",
    ):
        assert said in text


def test_key_type_and_table_must_be_said() -> None:
    with pytest.raises(TypeError, match=r"(?s)the type of its key is missing.*the user's table is missing"):

        class Bare(Machine):  # type: ignore[type-arg]
            states = (OPEN, SHUT)
            rules = (CLOSE,)


def test_guards_are_plain_and_actions_async() -> None:
    with pytest.raises(TypeError) as raised:

        class Swapped(Machine[str], table="doors"):
            states = (OPEN, SHUT)
            rules = (Rule("open", "close", "shut", guard="g", action="a"),)

            async def g(self) -> None: ...
            def a(self) -> None: ...

    assert "guard 'g' must not be an async function" in str(raised.value)
    assert "action 'a' must be an async function" in str(raised.value)


@pytest.mark.parametrize(
    ("version", "migrations", "said"),
    [
        (0, {}, "version must be 1 or more"),
        (2, {}, "version 2 needs migrations={1: {...}}"),
        (3, {"from_1": {}}, "each step once: [1, 2], not [1]"),
        (2, {"from_2": {}}, "not [2]"),
        (2, {"from_1": {"ajar": "gone"}}, "migration from 1 leads to 'gone', which is no state of version 2"),
        (3, {"from_1": {"a": "b"}, "from_2": {"b": "gone"}}, "migration from 1 leads to 'gone'"),
    ],
)
def test_migrations_must_lead_here(version: int, migrations: dict[str, dict[str, str]], said: str) -> None:
    assert said in problems((OPEN, SHUT), (CLOSE,), version, **migrations)


def test_states_of_older_definitions() -> None:
    table = compile_table((OPEN, SHUT), (CLOSE,), 4, {2: {"ajar": "wide"}, 3: {"wide": "open"}})
    assert table.migrated("ajar", 2) == "open"
    assert table.migrated("wide", 3) == "open"
    assert table.migrated("shut", 2) == "shut"
    assert table.migrated("ajar", 3) is None
    assert table.migrated("open", 1) is None  # nothing here reads version 1
    assert table.former_states() == {"ajar", "wide"}


def test_enumerations_are_their_text() -> None:
    class Door(StrEnum):
        OPEN = "open"
        SHUT = "shut"

    class Mixed(str, Enum):  # noqa: UP042 (what older code has)
        SHUT = "shut"

    states = (State(Door.OPEN, initial=True, deadline=Deadline(1, "close")), State(Door.SHUT, final=True))
    assert not problems_of(states, (Rule(Door.OPEN, "close", Mixed.SHUT),), 1, {})
    table = compile_table(states, (Rule((Door.OPEN,), "close", Mixed.SHUT),), 1, {})
    assert [type(name) for name in (table.initial, *table.states, table.ways("open", "close")[0].target)] == [str] * 4


def test_a_subclass_inherits_what_it_leaves_out() -> None:
    class Quick(Parcels):
        pass

    assert Quick.declaration == Parcels.declaration


def test_durations_are_a_deployments_business() -> None:
    table = Parcels.declaration.table
    assert table.with_durations({"packed": 2.0}).deadlines["packed"] == (2_000_000, "give_up")
    with pytest.raises(ValueError, match="state 'lost' has no deadline; those that have: packed, on_the_way"):
        table.with_durations({"lost": 1.0})
    with pytest.raises(ValueError, match="cannot be -1"):
        table.with_durations({"packed": -1.0})


NAMES = ["a", "b", "c", "d"]


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(["x", "y"]), st.sampled_from(NAMES)), max_size=8),
    st.sets(st.sampled_from(NAMES)),
)
def test_what_is_accepted_can_be_walked(rules: list[tuple[str, str, str]], finals: set[str]) -> None:
    """In an accepted table every state can be reached, and from every state that is not final something leads on."""
    states = [State(name, initial=name == "a", final=name in finals) for name in NAMES]
    declared = [Rule(*rule) for rule in rules]
    if problems_of(states, declared, 1, {}):
        return
    table = compile_table(states, declared, 1, {})
    reached, todo = {"a"}, ["a"]
    while todo:
        for event in table.legal(todo.pop()):
            for state in [name for name in NAMES if event in table.legal(name)]:
                for move in table.ways(state, event):
                    if state in reached and move.target not in reached:
                        reached.add(move.target)
                        todo.append(move.target)
    assert reached == set(NAMES)
    for name in NAMES:
        assert bool(table.legal(name)) == (name not in finals)
