"""Each judge accepts what is right and names what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.simulation import Call, Outcome, conserved, durable, monotonic, no_effect_after, one_outcome


def test_conserved() -> None:
    assert conserved("lamps", 30, {"free": 28, "sold": 2}) == []
    assert conserved("lamps", 0, {}) == []
    assert conserved("lamps", 30, {"free": 27, "sold": 2}) == ["lamps: 27 free + 2 sold = 29, not 30"]
    assert conserved("lamps", 30, {"free": -1, "sold": 31}) == ["lamps: -1 free"]
    assert len(conserved("lamps", 30, {"free": -1, "sold": 3})) == 2


@given(st.lists(st.integers(0, 100), min_size=1), st.integers(-5, 5))
def test_conserved_accepts_exactly_the_right_total(parts: list[int], off: int) -> None:
    found = conserved("x", sum(parts) + off, {str(i): part for i, part in enumerate(parts)})
    assert bool(found) == bool(off)


def test_one_outcome() -> None:
    assert one_outcome("order", [(1, True), (2, False), (1, True)], keys=[1, 2]) == []
    assert one_outcome("order", [(1, True), (1, False)]) == ["order 1 has several outcomes: True, False"]
    assert one_outcome("order", [(1, True)], keys=[1, 7]) == ["order 7 has no outcome"]


@pytest.mark.parametrize(
    ("effects", "right"),
    [
        ([(1, "try"), (1, "confirm"), (2, "try"), (2, "cancel")], True),
        ([(1, "cancel")], True),
        ([(1, "try"), (1, "cancel"), (1, "try")], False),
        ([(1, "cancel"), (2, "try"), (1, "cancel")], False),
    ],
)
def test_no_effect_after(effects: Sequence[tuple[int, str]], right: bool) -> None:
    assert (no_effect_after("order", effects, last=("cancel", "confirm")) == []) is right


def test_no_effect_after_may_allow_some() -> None:
    effects = [(1, "cancel"), (1, "read"), (1, "cancel")]
    assert no_effect_after("order", effects, last=("cancel",), none_of=("try",)) == []
    assert no_effect_after("order", effects, last=("cancel",), none_of=("cancel",)) == ["order 1: cancel after cancel"]


class State(Enum):
    NEW = 1
    PAID = 2
    GONE = 3


ALLOWED = {State.NEW: {State.PAID, State.GONE}, State.PAID: {State.GONE}}


def test_monotonic() -> None:
    fine = [("a", State.NEW), ("b", State.PAID), ("a", State.NEW), ("a", State.GONE), ("b", State.GONE)]
    assert monotonic("order", fine, allowed=ALLOWED) == []
    assert monotonic("order", [*fine, ("b", State.PAID)], allowed=ALLOWED) == ["order b: State.PAID after State.GONE"]
    assert monotonic("floor", [(1, 5), (1, 5), (1, 7)], allowed=lambda before, after: after >= before) == []
    assert len(monotonic("floor", [(1, 5), (1, 4)], allowed=lambda before, after: after >= before)) == 1


def call(key: int, outcome: Outcome, result: int | None = None) -> Call:
    return Call("client", "place", key, None, 0.0, 1.0, outcome, result)


def test_durable() -> None:
    books = {1: 10, 3: 30}

    def kept(call: Call) -> int | None:
        assert isinstance(call.key, int)
        return books.get(call.key)

    fine = [call(1, Outcome.OK, 10), call(2, Outcome.FAILED), call(3, Outcome.UNKNOWN), call(4, Outcome.UNKNOWN)]
    assert durable("order", fine, kept) == []
    assert durable("order", [call(2, Outcome.OK, 20)], kept) == [
        "order 2 of client was acknowledged as 20, and is None"
    ]
    assert durable("order", [call(1, Outcome.OK, 11)], kept) == ["order 1 of client was acknowledged as 11, and is 10"]
    assert durable("order", [call(3, Outcome.FAILED)], kept) == ["order 3 of client was told to have failed, and is 30"]
