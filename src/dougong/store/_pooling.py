"""Which connection of a pool is handed out, opened, checked, closed; whose turn it is. Decides only, touches nothing.

A pool has a number of *places*. Who holds a place may have one connection: an idle one, or a new one. Who finds no
place free stands in line, and a place that is left goes to the first in it. Idle connections are kept on a stack: the
one used last is the least likely to have died, and those that are not needed sink and are reaped.

    take ──USE───────────────▶ (in use) ──▶ put: keep it, or close it (broken, too old)
     │  ▲ ├──CHECK──▶ alive? ──yes──▲
     │  │ │             └no──▶ pick again
     │  │ └──OPEN───▶ add ──────────▲
     ▼  │
    WAIT: queue, then pick
"""

from __future__ import annotations

import weakref
from asyncio import Task
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from types import CodeType
from typing import Any

import msgspec

from dougong.store._link import Link

__all__ = ["PoolPolicy", "Pooling", "Slot", "Step", "Waiter", "lifetime_s"]


class PoolPolicy(msgspec.Struct, frozen=True):
    """How connections are kept. Seconds."""

    size: int = 4
    waiting_max: int = 10_000
    fresh_s: float = 0.5
    """A connection lent so recently is handed out unchecked."""
    life_s: float = 1800.0
    """A connection is replaced after about so long, so that none outlives what a proxy or a failover left behind."""
    life_spread: float = 0.025
    """By so much more or less, so that those opened together are not replaced together."""
    idle_s: float = 300.0
    """An idle connection that was lent so long ago is closed."""


def lifetime_s(policy: PoolPolicy, random: Callable[[], float]) -> float:
    """How long a connection opened now is to live; `random` gives 0 to 1."""
    return policy.life_s * (1.0 + policy.life_spread * (2.0 * random() - 1.0))


class Step(Enum):
    """What to do with what was picked."""

    USE = "use"
    """It was used a moment ago."""
    CHECK = "check"
    """Ask the server whether it is alive; if not, close it and pick again."""
    CLOSE = "close"
    """Its life is over: close it and pick again."""
    OPEN = "open"
    """There is none: open one and add it."""
    WAIT = "wait"
    """No place is free: stand in line, then pick."""


class Slot:
    """One connection of a pool, and who has it. One record per connection, not per loan: lending is the hot path."""

    __slots__ = (
        "callers",
        "code",
        "instruction",
        "lease",
        "link",
        "since",
        "suspected",
        "task",
        "task_name",
        "until",
        "uses",
    )

    def __init__(self, link: Link, now: float, until: float) -> None:
        self.link = link
        self.until = until
        self.uses = 0
        self.since = now
        """When it was lent last. What follows is of that loan, too; `_leaks` reads it."""
        self.lease: weakref.ref[Any] | None = None
        """None while nobody has it."""
        self.task: weakref.ref[Task[Any]] | None = None
        self.task_name = ""
        self.code: CodeType | None = None
        """Who asked for it, and at which instruction."""
        self.instruction = 0
        self.callers: Sequence[tuple[CodeType, int]] = ()
        """The same of those who called that, the innermost first; of most loans it is not noted."""
        self.suspected = False


class Waiter:
    """One in line until `until`. `wake` is called when it gets a place, or when its time is over."""

    __slots__ = ("has_place", "until", "wake")

    def __init__(self, until: float, wake: Callable[[], None]) -> None:
        self.until = until
        self.wake = wake
        self.has_place = False


class Pooling:
    """The decisions of one pool. Times are monotonic seconds, passed in."""

    def __init__(self, policy: PoolPolicy, random: Callable[[], float]) -> None:
        self.policy = policy
        self.free = policy.size
        """Places that nobody holds."""
        self.idle: list[Slot] = []
        """The one used last is the last."""
        self._random = random
        self._fresh_s = policy.fresh_s
        self._line: deque[Waiter] = deque()
        self._closed = False

    @property
    def in_use(self) -> int:
        return self.policy.size - self.free

    @property
    def waiting(self) -> int:
        return len(self._line)

    def take(self, now: float) -> tuple[Step, Slot | None]:
        """Take a place, if one is free, and pick."""
        if not self.free:
            return Step.WAIT, None
        self.free -= 1  # nobody is in line
        if self.idle:
            slot = self.idle[-1]
            if now < slot.until and now - slot.since <= self._fresh_s:  # as `pick` says, without the detour
                del self.idle[-1]
                return Step.USE, slot
        return self.pick(now)

    def queue(self, waiter: Waiter) -> bool:
        """Stand in line for a place; False when the line is full."""
        if len(self._line) >= self.policy.waiting_max:
            return False
        self._line.append(waiter)
        return True

    def expire(self, now: float) -> float | None:
        """Wake those whose time is over; when the next one's will be. All wait equally long, so the first comes first.

        (So one timer does for the whole line.)
        """
        line = self._line
        while line and now >= line[0].until:
            line.popleft().wake()
        return line[0].until if line else None

    def withdraw(self, waiter: Waiter) -> None:
        """It goes away: from the line, or from the place that it got meanwhile."""
        if waiter.has_place:
            self.leave()
        elif waiter in self._line:
            self._line.remove(waiter)

    def leave(self) -> None:
        """Give a place up, to the first in line."""
        if self._line:
            waiter = self._line.popleft()
            waiter.has_place = True
            waiter.wake()
        else:
            self.free += 1

    def pick(self, now: float) -> tuple[Step, Slot | None]:
        """What whoever has a place is to do; a slot that is picked is nobody else's."""
        if not self.idle:
            return Step.OPEN, None
        slot = self.idle.pop()
        if now >= slot.until:
            return Step.CLOSE, slot
        if now - slot.since > self._fresh_s:
            return Step.CHECK, slot
        return Step.USE, slot

    def add(self, link: Link, now: float) -> Slot:
        """A connection that was opened; it is in use."""
        return Slot(link, now, now + lifetime_s(self.policy, self._random))

    def put(self, slot: Slot, *, sound: bool) -> bool:
        """A connection comes back, and its place with it; False: it is to be closed.

        Looks at no clock, which costs as much as the rest: how old it is, `pick` and `reap` will see.
        """
        kept = sound and not self._closed
        if kept:
            self.idle.append(slot)
        if self._line:
            self.leave()
        else:
            self.free += 1
        return kept

    def reap(self, now: float) -> list[Slot]:
        """Idle connections to be closed: too old, or needed by nobody."""
        policy, gone, kept = self.policy, list[Slot](), list[Slot]()
        for slot in self.idle:
            over = now >= slot.until or now - slot.since >= policy.idle_s
            (gone if over else kept).append(slot)
        self.idle = kept
        return gone

    def close(self) -> list[Slot]:
        """Keep nothing from now on; the idle ones are to be closed."""
        self._closed = True
        gone, self.idle = self.idle, []
        return gone
