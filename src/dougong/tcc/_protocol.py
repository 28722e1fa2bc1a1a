"""What both sides of a transaction agree on."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import ClassVar, Generic, TypeVar

import msgspec

from dougong.shard import Key
from dougong.store import Tx

__all__ = ["BranchState", "Hold", "Participant", "Refusal", "TransactionState"]

P = TypeVar("P")


class TransactionState(IntEnum):
    """Where a transaction stands, as stored in the initiator's log. Changed by compare-and-set only."""

    TRYING = 1
    CONFIRMING = 2
    CONFIRMED = 3
    CANCELLING = 4
    CANCELLED = 5
    PARKED_CONFIRMING = 6
    """Retry budget spent on the way to confirmed: waits for an operator, never given up silently."""
    PARKED_CANCELLING = 7
    HELD = 8
    """Reserved everywhere; confirmed or cancelled by the initiator's word, or cancelled when its time is over."""


class BranchState(IntEnum):
    """Where a branch stands, as stored in the participant's fence."""

    TRIED = 1
    CONFIRMED = 2
    CANCELLED = 3
    SUSPENDED = 4
    """Cancelled before any Try was seen: a late Try is refused."""
    REFUSED = 5


class Refusal(msgspec.Struct, frozen=True):
    """A participant's No to a Try: a business answer, not a fault."""

    code: str
    message: str


class Hold(msgspec.Struct, Generic[P], frozen=True, gc=False):
    """One branch as its participant sees it."""

    transaction: int
    payload: P


class Participant(Generic[P]):
    """A service's part in transactions: three methods over batches, each inside one local transaction.

    `class Stock(Participant[Reserve], service="shop.v1.Stock", payload=Reserve)`. The fence has dealt with duplicates,
    empty cancels and late tries before these are called: each method sees a branch at most once, `confirm` and `cancel`
    only branches whose `try_` was accepted. The payload is kept by the fence and handed back.
    """

    service: ClassVar[str]
    payload: ClassVar[type]

    def __init_subclass__(cls, *, service: str, payload: type, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        cls.service = service
        cls.payload = payload

    def key(self, payload: P) -> Key | None:
        """Over a sharded store: the key whose rows this hold changes; its bucket has to be `transaction % 128`.

        None: not looked at.
        """
        return None

    async def try_(self, tx: Tx, holds: Sequence[Hold[P]]) -> Sequence[Refusal | None]:
        """Reserve; one answer per hold, None for yes. Decide in memory from state read once, write deltas once."""
        raise NotImplementedError

    async def confirm(self, tx: Tx, holds: Sequence[Hold[P]]) -> None:
        """Make reservations final."""
        raise NotImplementedError

    async def cancel(self, tx: Tx, holds: Sequence[Hold[P]]) -> None:
        """Give reservations back."""
        raise NotImplementedError
