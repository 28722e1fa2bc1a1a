"""What decides a transaction, and which states may follow which."""

from __future__ import annotations

from dougong.errors import Conflict, DeadlineExceeded
from dougong.tcc import Refusal, TransactionState
from dougong.tcc.transaction import ACCEPTED, OPEN, TRANSITIONS, judge

NO = Refusal("insufficient_stock", "none left")
LATE = DeadlineExceeded("too late")


def test_all_yes_is_yes() -> None:
    verdict = judge({"a": (range(3), [True] * 3), "b": ([1], [True])})
    assert (verdict.refused, verdict.holding) == ({}, {})


def test_one_no_decides_and_the_others_give_back() -> None:
    verdict = judge({"a": (range(2), [True, True]), "b": (range(2), [NO, True])})
    assert verdict.refused == {0: ("insufficient_stock", "none left")}
    assert verdict.holding == {"a": [0]}


def test_who_did_not_answer_may_hold_something() -> None:
    verdict = judge({"a": (range(1), [LATE]), "b": (range(1), [NO])})
    assert verdict.refused[0][0] == "insufficient_stock"  # the better answer, though it came second
    assert verdict.holding == {"a": [0]}
    assert judge({"a": (range(1), [LATE])}).refused[0][0] == "unavailable"


def test_a_fault_keeps_its_code() -> None:
    verdict = judge({"a": (range(1), [Conflict("other payload", code="payload_mismatch")])})
    assert verdict.refused[0][0] == "payload_mismatch"


def test_every_state_leads_to_an_end_and_no_decision_is_undone() -> None:
    for state in TransactionState:
        reach, edge = {state}, {state}
        while edge:
            edge = {to for s in edge for to in TRANSITIONS[s]} - reach
            reach |= edge
        assert reach & {TransactionState.CONFIRMED, TransactionState.CANCELLED}
        if state not in OPEN:
            assert len({s in ACCEPTED for s in reach}) == 1
            assert not reach & OPEN
