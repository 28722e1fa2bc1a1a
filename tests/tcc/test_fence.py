"""The fence's rules, one by one and in every order."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dougong.tcc import BranchState
from dougong.tcc.fence import Fence, FenceRow

NOTHING: dict[int, FenceRow] = {}
FENCE = Fence()


def known(state: BranchState, payload: bytes | None = b"p", code: str | None = None) -> dict[int, FenceRow]:
    return {1: (int(state), payload, code, "because" if code else None)}


@pytest.mark.parametrize(
    ("rows", "payload", "runs", "answers"),
    [
        (NOTHING, b"p", [0], []),
        (known(BranchState.TRIED), b"p", [], []),
        (known(BranchState.CONFIRMED), b"p", [], []),
        (known(BranchState.TRIED), b"q", [], ["payload_mismatch"]),
        (known(BranchState.CONFIRMED), b"q", [], ["payload_mismatch"]),
        (known(BranchState.CANCELLED), b"p", [], ["cancelled"]),
        (known(BranchState.SUSPENDED, None), b"p", [], ["suspended"]),
        (known(BranchState.REFUSED, b"p", "insufficient_stock"), b"p", [], ["insufficient_stock"]),
        (known(BranchState.REFUSED, b"p", "insufficient_stock"), b"q", [], ["payload_mismatch"]),
    ],
)
def test_try(rows: dict[int, FenceRow], payload: bytes, runs: list[int], answers: list[str]) -> None:
    verdict = FENCE.judge_try(rows, [1], [payload])
    assert list(verdict.run) == runs
    assert [code for _, _, code, _ in verdict.answers] == answers


@pytest.mark.parametrize(
    ("rows", "runs", "answers"),
    [
        (NOTHING, [], ["confirm_without_try"]),
        (known(BranchState.TRIED), [1], []),
        (known(BranchState.CONFIRMED), [], []),
        (known(BranchState.CANCELLED), [], ["confirm_after_cancel"]),
        (known(BranchState.SUSPENDED, None), [], ["confirm_after_cancel"]),
        (known(BranchState.REFUSED), [], ["confirm_of_refused"]),
    ],
)
def test_confirm(rows: dict[int, FenceRow], runs: list[int], answers: list[str]) -> None:
    verdict = FENCE.judge_settle(rows, [1], BranchState.CONFIRMED)
    assert (verdict.run, [code for _, _, code, _ in verdict.answers], verdict.suspend) == (runs, answers, [])


@pytest.mark.parametrize(
    ("rows", "runs", "answers", "suspend"),
    [
        (NOTHING, [], [], [1]),
        (known(BranchState.TRIED), [1], [], []),
        (known(BranchState.CONFIRMED), [], ["cancel_after_confirm"], []),
        (known(BranchState.CANCELLED), [], [], []),
        (known(BranchState.SUSPENDED, None), [], [], []),
        (known(BranchState.REFUSED), [], [], []),
    ],
)
def test_cancel(rows: dict[int, FenceRow], runs: list[int], answers: list[str], suspend: list[int]) -> None:
    verdict = FENCE.judge_settle(rows, [1], BranchState.CANCELLED)
    assert (verdict.run, [code for _, _, code, _ in verdict.answers], verdict.suspend) == (runs, answers, suspend)


def test_the_same_transaction_twice_in_one_batch_runs_once() -> None:
    verdict = FENCE.judge_try({}, [7, 8, 7, 7], [b"x", b"y", b"x", b"z"])
    assert list(verdict.run) == [0, 1]
    assert verdict.echoes == [(2, 0)]
    assert [(i, code) for i, _, code, _ in verdict.answers] == [(3, "payload_mismatch")]
    settled = FENCE.judge_settle({7: (1, b"x", None, None)}, [7, 7, 9, 9], BranchState.CANCELLED)
    assert (settled.run, settled.suspend) == ([7], [9])


class AnyOrder(RuleBasedStateMachine):
    """Batches of calls in any order: what a participant would see of them."""

    ids = st.lists(st.integers(1, 6), min_size=1, max_size=5)

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, FenceRow] = {}
        self.effects: dict[int, list[str]] = {}
        self.first_answer: dict[int, str] = {}

    @rule(ids=ids, refuse=st.sets(st.integers(1, 6)))
    def try_(self, ids: list[int], refuse: set[int]) -> None:
        verdict = FENCE.judge_try({t: r for t, r in self.rows.items() if t in ids}, ids, [b"p"] * len(ids))
        for i in verdict.run:
            t = ids[i]
            if t in refuse:
                self.rows[t] = (int(BranchState.REFUSED), b"p", "no", "no")
            else:
                self.rows[t] = (int(BranchState.TRIED), b"p", None, None)
                self.effects.setdefault(t, []).append("try")
        answers = {i: code for i, _, code, _ in verdict.answers}
        for i, t in enumerate(ids):
            if self.rows[t][0] in (BranchState.TRIED, BranchState.CONFIRMED, BranchState.REFUSED):
                code = answers.get(i, "no" if self.rows[t][0] == BranchState.REFUSED else "yes")
                assert self.first_answer.setdefault(t, code) == code

    @rule(ids=ids, to=st.sampled_from([BranchState.CONFIRMED, BranchState.CANCELLED]))
    def settle(self, ids: list[int], to: BranchState) -> None:
        verdict = FENCE.judge_settle({t: r for t, r in self.rows.items() if t in ids}, ids, to)
        for t in verdict.run:
            self.rows[t] = (int(to), *self.rows[t][1:])
            self.effects.setdefault(t, []).append(to.name.lower())
        for t in verdict.suspend:
            assert t not in self.rows
            self.rows[t] = (int(BranchState.SUSPENDED), None, None, None)

    @invariant()
    def each_hold_is_made_once_and_settled_once(self) -> None:
        allowed: tuple[list[str], ...] = ([], ["try"], ["try", "confirmed"], ["try", "cancelled"])
        assert all(effects in allowed for effects in self.effects.values())


TestAnyOrder = AnyOrder.TestCase
