"""Random events in random batches against a model so naive that one can see it is right."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.statemachine.parcels import HOUR_S, codes, in_memory, keeper, machine_without_store, pack

from dougong.clock import ManualClock
from dougong.statemachine import Fire, Transition
from dougong.store._tx import drive

# (state, event) → target of a light parcel; a heavy one goes through customs.
LIGHT = {
    ("packed", "send"): "on_the_way",
    ("packed", "give_up"): "lost",
    ("on_the_way", "return"): "packed",
    ("at_customs", "return"): "packed",
    ("on_the_way", "deliver"): "delivered",
    ("on_the_way", "lose"): "lost",
}
LEFT = {"packed": (HOUR_S, "give_up"), "on_the_way": (24 * HOUR_S, "lose")}
EVENTS = ("send", "give_up", "return", "deliver", "lose")
IDS = st.integers(1, 12)
FIRES = st.lists(
    st.tuples(IDS, st.sampled_from(EVENTS), st.sampled_from([None, None, "i", "j"]), st.sampled_from([None, {"a": 1}])),
    min_size=1,
    max_size=12,
)


class Parcel(msgspec.Struct):
    heavy: bool
    state: str = "packed"
    due_us: int | None = None
    path: list[tuple[str, str, str]] = []
    ids: dict[str, tuple[str, object, int]] = {}
    """Event id → (event, data, version)."""


class AgainstTheModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.tx, self.close = in_memory()
        self.clock = ManualClock()
        self.machine = machine_without_store(self.clock)
        self.model: dict[int, Parcel] = {}
        drive(self.machine._firing.history.register, self.tx)
        self.keeper = keeper(self.machine, self.machine._store, self.clock)

    def teardown(self) -> None:
        self.close()

    @initialize(heavy=st.lists(st.booleans(), min_size=12, max_size=12))
    def some(self, heavy: list[bool]) -> None:
        for id_ in range(1, 9):
            self.new(id_, heavy[id_ - 1])

    @rule(id_=IDS, heavy=st.booleans())
    def new(self, id_: int, heavy: bool) -> None:
        if id_ not in self.model:
            drive(lambda tx: pack(tx, self.machine, [id_], 5000 if heavy else 10), self.tx)
            self.model[id_] = Parcel(heavy, due_us=self.due("packed"))

    @rule(fires=FIRES)
    def fire(self, fires: list[tuple[int, str, str | None, object]]) -> None:
        got = drive(lambda tx: self.machine.fire(tx, [Fire(*one) for one in fires]), self.tx)
        assert codes(got) == [self.expected(*one) for one in fires]

    @rule(fires=FIRES, state=st.sampled_from(["packed", "on_the_way", "at_customs", "lost"]), version=st.integers(0, 4))
    def fire_expecting(self, fires: list[tuple[int, str, str | None, object]], state: str, version: int) -> None:
        got = drive(
            lambda tx: self.machine.fire(tx, [Fire(*one) for one in fires], expecting=(state, version)), self.tx
        )
        assert codes(got) == [self.expected(i, e, n, d, (state, version)) for i, e, n, d in fires]

    @rule(event=st.sampled_from(EVENTS), state=st.sampled_from(["packed", "on_the_way"]), version=st.integers(0, 3))
    def fire_at_all(self, event: str, state: str, version: int) -> None:
        self.fire_expecting([(id_, event, None, None) for id_ in sorted(self.model)], state, version)

    @rule(hours=st.integers(0, 30))
    def time_passes(self, hours: int) -> None:
        self.clock.advance(hours * HOUR_S)

    @rule(state=st.sampled_from(sorted(LEFT)))
    def deadlines(self, state: str) -> None:
        now_us = self.clock.now_us()

        async def unit(tx: Any) -> Any:
            return await self.keeper._fire(tx, await self.keeper._due(tx, state, now_us), now_us)

        fired = {row.key for row, _ in drive(unit, self.tx)}
        due = {id_ for id_, p in self.model.items() if p.state == state and p.due_us is not None and p.due_us <= now_us}
        assert fired == due
        for id_ in due:
            assert self.expected(id_, LEFT[state][1], None, None) == "lost"

    @precondition(lambda self: self.model)
    @invariant()
    def rows_are_as_the_model_says(self) -> None:
        rows = drive(lambda tx: tx.fetch_all("SELECT id, state, state_version, due_us FROM parcels"), self.tx)
        assert {row[0]: row[1:] for row in rows} == {
            id_: (p.state, len(p.path), p.due_us) for id_, p in self.model.items()
        }

    @precondition(lambda self: self.model)
    @invariant()
    def history_is_the_path(self) -> None:
        history = self.machine._firing.history
        rows = drive(
            lambda tx: tx.fetch_all(
                "SELECT seq, instance, version, source, event, target, event_id, at_us, data "
                "FROM dougong_transitions ORDER BY seq"
            ),
            self.tx,
        )
        paths: dict[int, list[tuple[str, str, str]]] = {id_: [] for id_ in self.model}
        for t in map(history.transition, rows):
            paths[t.instance].append((t.source, t.event, t.target))
            assert t.version == len(paths[t.instance])
        assert paths == {id_: p.path for id_, p in self.model.items()}

    def due(self, state: str) -> int | None:
        return self.clock.now_us() + int(LEFT[state][0] * 1e6) if state in LEFT else None

    def expected(
        self, id_: int, event: str, event_id: str | None, data: object, expecting: tuple[str, int] | None = None
    ) -> str:
        """The outcome of one event, and what it does to the model."""
        parcel = self.model.get(id_)
        if parcel is None:
            return "unknown_instance"
        if event_id in parcel.ids:
            was, with_data, version = parcel.ids[event_id]
            return parcel.path[version - 1][2] if (was, with_data) == (event, data) else "event_id_reused"
        if expecting is not None and expecting != (parcel.state, len(parcel.path)):
            return "instance_moved"
        target = LIGHT.get((parcel.state, event))
        if target is None:
            return "illegal_transition"
        if event == "send" and parcel.heavy:
            target = "at_customs"
        parcel.path = [*parcel.path, (parcel.state, event, target)]
        if event_id is not None:
            parcel.ids = {**parcel.ids, event_id: (event, data, len(parcel.path))}
        parcel.state, parcel.due_us = target, self.due(target)
        return target


def test_a_transition_is_what_the_model_compares() -> None:
    assert codes([Transition(1, 1, "a", "b", "c", 0)]) == ["c"]
    assert inspect.iscoroutinefunction(machine_without_store().fire)


AgainstTheModel.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAgainstTheModel = AgainstTheModel.TestCase
