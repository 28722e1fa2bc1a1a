"""One timer for a million connections: a hashed timing wheel (Varghese and Lauck, 1987) with lazy deadlines.

A timer per connection would cost more memory than the connection. Here each has one integer, its deadline in ticks,
and stands in the slot of the tick at which it is looked at next. Whoever moves a deadline further away changes the
integer only: when the slot comes up, what is not due yet is put where it belongs. So a connection that is busy all the
time is moved once per round and not once per message.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

__all__ = ["Timed", "Wheel"]


class Timed(Protocol):
    """What can stand in a wheel. The wheel owns `looked_at`, the owner sets `deadline`."""

    deadline: int
    """In ticks; may be moved freely: later costs nothing, earlier needs `Wheel.put`. Negative is never."""
    looked_at: int
    """The tick at which the wheel looks at it next; negative when it stands in none."""


T = TypeVar("T", bound=Timed)


class Wheel(Generic[T]):
    """`slots` ticks around; what is due later than that goes round more than once.

    >>> class One:
    ...     deadline, looked_at = 3, -1
    >>> wheel, one = Wheel[One](slots=8), One()
    >>> wheel.put(one)
    >>> list(wheel.advance(2)), one in list(wheel.advance(3))
    ([], True)
    """

    def __init__(self, *, slots: int = 512, now: int = 0) -> None:
        self._slots: list[dict[T, None] | None] = [None] * slots
        self._count = slots
        self._now = now
        self.size = 0

    @property
    def now(self) -> int:
        """The last tick that was advanced to."""
        return self._now

    def put(self, item: T) -> None:
        """Look at it at its deadline: the first time, or because the deadline came nearer than it was."""
        if item.deadline < 0:
            self.remove(item)
            return
        at = max(item.deadline, self._now + 1)
        if 0 <= item.looked_at <= at:
            return  # it is looked at in time, and moved on then
        self.remove(item)
        self._stand(item, at)

    def remove(self, item: T) -> None:
        """Forget it; what stands in no slot is passed over."""
        if item.looked_at < 0:
            return
        slot = self._slots[item.looked_at % self._count]
        if slot is not None and slot.pop(item, self) is None:
            self.size -= 1
        item.looked_at = -1

    def advance(self, now: int) -> Iterator[T]:
        """Go on to tick `now`; those whose deadline has passed, each taken out. They may be put again at once.

        A jump by more than a round (the process was stopped) costs one round.
        """
        first = max(self._now + 1, now - self._count + 1)
        jumped = first > self._now + 1
        for tick in range(first, now + 1):
            place = tick % self._count
            slot = self._slots[place]
            self._now = tick if not jumped else now
            if slot is None:
                continue
            self._slots[place] = None
            self.size -= len(slot)
            for item in slot:
                item.looked_at = -1
                if 0 <= item.deadline <= now:
                    yield item
                elif item.deadline >= 0:
                    self._stand(item, item.deadline)
        self._now = max(self._now, now)

    def _stand(self, item: T, at: int) -> None:
        # Never further than a round ahead: then each slot holds what is looked at the next time it comes up.
        at = min(at, self._now + self._count - 1)
        slot = self._slots[at % self._count]
        if slot is None:
            slot = self._slots[at % self._count] = {}
        slot[item] = None
        item.looked_at = at
        self.size += 1
