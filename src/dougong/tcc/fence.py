"""What a participant does with a call, given what its fence already says. Every rule of the fence stands here.

| the fence says | Try | Confirm | Cancel |
| --- | --- | --- | --- |
| nothing | run | error, alarm | record *suspended*, yes |
| tried | yes again | run | run |
| confirmed | yes again | yes again | error, alarm |
| cancelled | no | error, alarm | yes again |
| suspended | no (it came late) | error, alarm | yes again |
| refused | the same no again | error, alarm | yes again |

A Try whose payload differs from the recorded one is an error whatever the state. All this is settled *before* the
participant looks at its stock: a repeated Try of the last unit must find its own hold, not an empty shelf.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from dougong.tcc._protocol import BranchState
from dougong.tcc.wire import Answer

__all__ = ["ALARMS", "Fence", "FenceRow", "SettleVerdict", "TryVerdict"]

FenceRow = tuple[int, bytes | None, str | None, str | None]
"""(state, payload, code, message) as stored."""

TRIED: Final = int(BranchState.TRIED)
CONFIRMED: Final = int(BranchState.CONFIRMED)
CANCELLED: Final = int(BranchState.CANCELLED)
SUSPENDED: Final = int(BranchState.SUSPENDED)
REFUSED: Final = int(BranchState.REFUSED)

ALARMS: Final = frozenset({"confirm_without_try", "confirm_after_cancel", "confirm_of_refused", "cancel_after_confirm"})
"""Codes that say the two sides disagree about history: no retry mends that, a person must look."""


class TryVerdict(msgspec.Struct, frozen=True):
    """What to do with a Try batch."""

    run: Sequence[int]
    """Positions the participant has to decide; they will be recorded."""
    answers: list[Answer]
    """Exceptions already known."""
    echoes: list[tuple[int, int]]
    """(position, earlier position) of the same transaction twice in one batch: answered alike."""


class SettleVerdict(msgspec.Struct, frozen=True):
    """What to do with a Confirm or Cancel batch."""

    run: list[int]
    """Transactions the participant has to settle."""
    answers: list[Answer]
    suspend: list[int]
    """Transactions to record as cancelled before any Try."""


class Fence:
    """The rules; no state of its own."""

    def judge_try(
        self, known: Mapping[int, FenceRow], transactions: Sequence[int], payloads: Sequence[bytes]
    ) -> TryVerdict:
        """`known`: the fence's rows for these transactions."""
        if not known and len(set(transactions)) == len(transactions):
            return TryVerdict(range(len(transactions)), [], [])
        run: list[int] = []
        answers: list[Answer] = []
        echoes: list[tuple[int, int]] = []
        first: dict[int, int] = {}
        for i, transaction in enumerate(transactions):
            row = known.get(transaction)
            if row is not None:
                answer = _try_again(i, transaction, row, payloads[i])
                if answer is not None:
                    answers.append(answer)
            elif transaction not in first:
                first[transaction] = i
                run.append(i)
            elif payloads[i] != payloads[first[transaction]]:
                answers.append(_mismatch(i, transaction))
            else:
                echoes.append((i, first[transaction]))
        return TryVerdict(run, answers, echoes)

    def judge_settle(
        self, known: Mapping[int, FenceRow], transactions: Sequence[int], to: BranchState
    ) -> SettleVerdict:
        """`to`: CONFIRMED or CANCELLED."""
        run: list[int] = []
        answers: list[Answer] = []
        suspend: list[int] = []
        seen: set[int] = set()
        confirm = to is BranchState.CONFIRMED
        for i, transaction in enumerate(transactions):
            row = known.get(transaction)
            state = row[0] if row is not None else 0
            if state == TRIED:
                if transaction not in seen:
                    seen.add(transaction)
                    run.append(transaction)
            elif confirm:
                if state != CONFIRMED:
                    answers.append((i, "conflict", *_NOT_CONFIRMABLE[state]))
            elif state == CONFIRMED:
                answers.append((i, "conflict", "cancel_after_confirm", "the branch was confirmed and stays so"))
            elif not state and transaction not in seen:
                seen.add(transaction)
                suspend.append(transaction)
        return SettleVerdict(run, answers, suspend)


_NOT_CONFIRMABLE = {
    0: ("confirm_without_try", "the branch was never tried here; was this database restored from a backup?"),
    CANCELLED: ("confirm_after_cancel", "the branch was cancelled and stays so"),
    SUSPENDED: ("confirm_after_cancel", "the branch was cancelled before it was tried"),
    REFUSED: ("confirm_of_refused", "the branch was refused, so there is nothing to confirm"),
}


def _try_again(i: int, transaction: int, row: FenceRow, payload: bytes) -> Answer | None:
    state, recorded, code, message = row
    if recorded is not None and recorded != payload:
        return _mismatch(i, transaction)
    if state == REFUSED:
        return (i, "", code or "refused", message or "")
    if state == SUSPENDED:
        return (i, "", "suspended", "the transaction was cancelled before this Try arrived")
    if state == CANCELLED:
        return (i, "", "cancelled", "the transaction was cancelled")
    return None


def _mismatch(i: int, transaction: int) -> Answer:
    return (
        i,
        "conflict",
        "payload_mismatch",
        f"transaction {transaction} was tried before with another payload; a new attempt needs a new id",
    )
