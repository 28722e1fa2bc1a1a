"""A transaction's states, what decides it, and when to give up retrying. Pure; the coordinator and the log follow it.

    TRYING ──▶ CONFIRMING ──▶ CONFIRMED
       │            └──▶ PARKED_CONFIRMING ──▶ CONFIRMING (an operator's retry)
       ├─────▶ CANCELLING ──▶ CANCELLED
       │            └──▶ PARKED_CANCELLING ──▶ CANCELLING
       ├─────▶ CANCELLED (every branch said no by itself: nothing to give back)
       └─────▶ HELD ──▶ CONFIRMING or CANCELLING (the initiator's word, or time is over)

Every arrow is a compare-and-set in the log. TRYING and HELD are left exactly once, so of a confirm, a timeout and an
operator that race, one wins and the others read what it decided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from dougong.errors import Error, Unavailable
from dougong.tcc._protocol import Refusal, TransactionState

__all__ = [
    "ACCEPTED",
    "OPEN",
    "TRANSITIONS",
    "Decision",
    "NewTransaction",
    "NotAsked",
    "Outcome",
    "RetrySchedule",
    "Verdict",
    "judge",
]

TRANSITIONS: Final[Mapping[TransactionState, frozenset[TransactionState]]] = {
    TransactionState.TRYING: frozenset(
        {TransactionState.CONFIRMING, TransactionState.CANCELLING, TransactionState.CANCELLED, TransactionState.HELD}
    ),
    TransactionState.HELD: frozenset({TransactionState.CONFIRMING, TransactionState.CANCELLING}),
    TransactionState.CONFIRMING: frozenset({TransactionState.CONFIRMED, TransactionState.PARKED_CONFIRMING}),
    TransactionState.CANCELLING: frozenset({TransactionState.CANCELLED, TransactionState.PARKED_CANCELLING}),
    TransactionState.PARKED_CONFIRMING: frozenset({TransactionState.CONFIRMING}),
    TransactionState.PARKED_CANCELLING: frozenset({TransactionState.CANCELLING}),
    TransactionState.CONFIRMED: frozenset(),
    TransactionState.CANCELLED: frozenset(),
}

ACCEPTED: Final = frozenset(
    {TransactionState.CONFIRMING, TransactionState.CONFIRMED, TransactionState.PARKED_CONFIRMING}
)
"""States of a transaction that was decided yes. TRYING and HELD are undecided, the rest were decided no."""

OPEN: Final = frozenset({TransactionState.TRYING, TransactionState.HELD})
"""States that are not decided for good."""


class NotAsked(Unavailable):
    """A participant was left alone: it was not asked, so it holds nothing."""


class NewTransaction(msgspec.Struct, frozen=True):
    """What `Coordinator.run` takes: an id that is never used for anything else, and a payload per participant."""

    id: int
    """Chosen by the caller, 0 < id < 2^63; `store.IdBlocks` makes such ids. Ids near each other cost the least."""
    branches: Mapping[str, msgspec.Struct]
    """Participant's name, as the coordinator's `participants` has it → payload."""


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What was decided of one transaction, once and for all; with `held`, what stands until that is decided."""

    transaction: int
    accepted: bool
    """Every participant holds what was asked for, and will be told to confirm; else nothing stays held."""
    code: str = ""
    """Empty when accepted. Else a participant's refusal code, `unavailable` when a participant did not answer or time
    ran out (trying again later may succeed), `expired` when a hold's time was over, `cancelled` when an operator or the
    initiator said so, or the code of a fault."""
    message: str = ""
    held: bool = False
    """Accepted for now: reserved everywhere, and the initiator has still to confirm or cancel."""


Outcome = Decision
"""What a run returns per transaction: its decision, also when it was taken by an earlier run of the same id."""


class Verdict(msgspec.Struct, frozen=True):
    """What the answers to a batch of Tries amount to."""

    refused: dict[int, tuple[str, str]]
    """Position → (code, message); positions not in it are accepted."""
    holding: dict[str, list[int]]
    """Participant → refused positions where it may hold something that has to be given back."""


def judge(answers: Mapping[str, tuple[Sequence[int], Sequence[bool | Refusal | Error]]]) -> Verdict:
    """Decide a batch. `answers`: participant → (positions, what it said to each).

    One No decides a transaction; of several the first participant's (in the mapping's order) is reported, but a
    business No goes before a fault, being the better answer. A fault may have left a hold behind, unless nobody was
    asked: it is cancelled too.
    """
    refused: dict[int, tuple[str, str]] = {}
    faults: dict[int, tuple[str, str]] = {}
    clean: dict[str, set[int]] = {}
    for participant, (positions, said) in answers.items():
        if said.count(True) == len(said):
            continue
        for position, answer in zip(positions, said, strict=True):
            if answer is True:
                continue
            if isinstance(answer, Refusal):
                refused.setdefault(position, (answer.code, answer.message))
                clean.setdefault(participant, set()).add(position)
            else:
                assert isinstance(answer, Error)
                if isinstance(answer, NotAsked):
                    clean.setdefault(participant, set()).add(position)
                faults.setdefault(position, _fault(participant, answer))
    for position, fault in faults.items():
        refused.setdefault(position, fault)
    holding: dict[str, list[int]] = {}
    if refused:
        for participant, (positions, _) in answers.items():
            nothing = clean.get(participant, ())
            holds = [p for p in positions if p in refused and p not in nothing]
            if holds:
                holding[participant] = holds
    return Verdict(refused, holding)


def _fault(participant: str, error: Error) -> tuple[str, str]:
    if error.family in {"unavailable", "overloaded", "deadline_exceeded"}:
        return "unavailable", f"{participant} could not be asked ({error})"
    return error.code, f"{participant}: {error.message}"


class RetrySchedule(msgspec.Struct, frozen=True):
    """How long to wait before asking a participant again, and how often. The defaults give up after seven minutes."""

    base_s: float = 0.1
    factor: float = 2.0
    cap_s: float = 30.0
    attempts: int = 21
    """Calls before a transaction is parked."""

    def delay_s(self, attempts: int, random: float) -> float:
        """Wait after so many failed calls (1 or more); ±20 % by `random` in [0, 1), so that crowds spread out."""
        exponent = min(attempts - 1, 64)
        return float(min(self.cap_s, self.base_s * self.factor**exponent) * (0.8 + 0.4 * random))

    @property
    def longest_s(self) -> float:
        """No delay is longer."""
        return self.cap_s * 1.2
