"""The seam between gateways and what carries messages between them.

A message that is published anywhere reaches each gateway process that has members of its topic, with the same offset
everywhere: who comes back to another process than he left misses nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from dougong.errors import Invalid
from dougong.gateway.history import Missed, Offset
from dougong.gateway.outbox import Slow

__all__ = ["MESSAGE_BYTES_MAX", "TOPIC_BYTES_MAX", "Deliver", "FanOut", "Lost", "Published", "check_size"]

MESSAGE_BYTES_MAX = 1024 * 1024
TOPIC_BYTES_MAX = 800
"""200 characters, each of up to four bytes."""


class Published(msgspec.Struct, frozen=True, array_like=True, tag="m"):
    """A message on its way to members."""

    topic: str
    data: bytes
    """JSON."""
    offset: Offset | None
    """None when the topic keeps no history."""
    slow: Slow


Deliver = Callable[[Published], None]
Lost = Callable[[str], None]
"""Some messages of that topic did not get here and are nowhere any more."""


class FanOut(Protocol):
    """Carries what is published.

    A process joins a topic once, however many members it has there; of `join` and `leave` the one that was called last
    counts. Kept messages of a topic are delivered in the order of their offsets, each once, and none is left out
    without `lost` being called; what is not kept may be lost while a connection is.
    """

    async def start(self, deliver: Deliver, lost: Lost) -> None:
        """Begin; both are called on the loop, for topics that were joined and no others."""

    async def close(self) -> None:
        """Let go."""

    async def join(self, topic: str) -> Offset:
        """This process has members of that topic from now on; where it stands. Nothing after that offset is missed by
        who is a member before he awaits anything else. Raises `Unavailable`."""

    async def leave(self, topic: str) -> None:
        """It has none any more. Takes effect before it first waits, and never fails."""

    async def publish(self, topic: str, data: bytes, *, slow: Slow, keep: bool) -> Offset | None:
        """Carry a message to all who joined, this process included; `keep` it for those who come back.

        Raises `Invalid` (`message_too_large`, `bad_topic`), `Unavailable` when it was not sent, `Overloaded` when too
        many wait, and `DeadlineExceeded` when it was sent and nobody said what became of it.
        """

    async def since(self, topic: str, offset: Offset) -> Missed:
        """What came after `offset`. Raises `Unavailable`."""


def check_size(topic: str, data: bytes) -> None:
    """What is published, before anybody has to carry it."""
    if not 0 < len(topic.encode("utf-8", "surrogatepass")) <= TOPIC_BYTES_MAX:
        raise Invalid(f"a topic has 1 to {TOPIC_BYTES_MAX} bytes", code="bad_topic")
    if len(data) > MESSAGE_BYTES_MAX:
        raise Invalid(
            f"a message of {len(data)} bytes for {topic}: the limit is {MESSAGE_BYTES_MAX}; publish where the data is",
            code="message_too_large",
        )
