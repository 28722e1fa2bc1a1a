"""What coordinator and participant say to each other: columns, not items.

A batch is a handful of messages' worth of work however many transactions it carries: parallel lists of numbers and
bytes, and an answer that names only the exceptions.
"""

from __future__ import annotations

from typing import Annotated, Protocol

import msgspec

from dougong.contract import Message
from dougong.errors import Internal

__all__ = [
    "ITEMS_MAX",
    "Answer",
    "BranchReply",
    "Forget",
    "Forgotten",
    "ParticipantClient",
    "Settle",
    "TryBatch",
    "answers_of",
    "reply_of",
]

ITEMS_MAX = 10_000
"""Transactions in one call."""

_Bounded = msgspec.Meta(max_length=ITEMS_MAX)

Answer = tuple[int, str, str, str]
"""An exception from yes: (position in the request, family, code, message). The family of a business No is empty; any
other names an error family, and whether something was reserved is then unknown."""


class TryBatch(Message):
    """Reserve. `payloads` are msgpack, one per transaction."""

    initiator: str
    sent_us: int
    """The initiator's time of sending, UTC microseconds; never older than any transaction in the batch."""
    transactions: Annotated[list[int], _Bounded]
    payloads: Annotated[list[bytes], _Bounded]


class Settle(Message):
    """Confirm or cancel what was tried."""

    initiator: str
    sent_us: int
    transactions: Annotated[list[int], _Bounded]


class BranchReply(Message):
    """Yes to everything but the items listed, column by column (see `Answer`)."""

    items: list[int] = msgspec.field(default_factory=list)
    families: list[str] = msgspec.field(default_factory=list)
    codes: list[str] = msgspec.field(default_factory=list)
    messages: list[str] = msgspec.field(default_factory=list)


class Forget(Message):
    """Transactions begun before `before_us` are over, except those in `keep`: nobody will ask about them again."""

    initiator: str
    before_us: int
    keep: Annotated[list[int], _Bounded] = msgspec.field(default_factory=list)


class Forgotten(Message):
    """How many fence rows went; call again while `more`."""

    rows: int
    more: bool


class ParticipantClient(Protocol):
    """A participant as the coordinator calls it: the service object itself, or a client of it."""

    async def try_(self, request: TryBatch, /) -> BranchReply:
        """Reserve."""

    async def confirm(self, request: Settle, /) -> BranchReply:
        """Make final."""

    async def cancel(self, request: Settle, /) -> BranchReply:
        """Give back."""

    async def forget(self, request: Forget, /) -> Forgotten:
        """Drop fence rows that cannot be asked for any more."""


_ALL_YES = BranchReply()


def reply_of(answers: list[Answer]) -> BranchReply:
    """The columns of a list of exceptions."""
    if not answers:
        return _ALL_YES
    items, families, codes, messages = map(list, zip(*sorted(answers), strict=True))
    return BranchReply(items=items, families=families, codes=codes, messages=messages)


def answers_of(reply: BranchReply, count: int) -> list[Answer]:
    """The exceptions of a reply to `count` items; `Internal` when it makes no sense."""
    if not reply.items:
        return []
    columns = (reply.items, reply.families, reply.codes, reply.messages)
    if any(len(column) != len(reply.items) for column in columns) or not all(0 <= i < count for i in reply.items):
        raise Internal(f"the participant's reply does not fit a request of {count} items", code="bad_reply")
    return list(zip(*columns, strict=True))
