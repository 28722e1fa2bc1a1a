"""A client's place in one topic: what is handed to the reader, once and in order, across any number of connections.

What comes between a question and its answer comes again after it, and is not taken. After the answer messages come by
two ways, what is published now and what was missed: what is ahead of its turn waits until what was missed is here. A
reader who does not keep up costs a bounded number of messages: what
does not fit is not taken, and asked for again by offset once there is room. What cannot be had any more is said.

    LIVE ──▶ asked ──▶ CATCHING UP (until the offset that the answer names) ──▶ LIVE
      └── no room ──▶ BEHIND ── read half of it ──▶ asked
"""

from __future__ import annotations

from collections import deque
from enum import Enum

import msgspec

from dougong.gateway.history import Offset

__all__ = ["Follower", "Gap", "Stage", "Told"]


class Told(msgspec.Struct, frozen=True):
    """A message of a topic."""

    topic: str
    data: bytes
    """JSON."""
    offset: Offset | None
    """None when the topic keeps no history."""


class Gap(msgspec.Struct, frozen=True):
    """Some of a topic cannot be had any more: load the state by other means. What comes after this is complete."""

    topic: str


class Stage(Enum):
    ASKED = "asked"
    CATCHING_UP = "catching_up"
    LIVE = "live"
    BEHIND = "behind"


class Follower:
    """Of one topic. `ask` before each subscription is sent, then what comes goes to `answered` and `message`."""

    def __init__(self, topic: str, *, offset: Offset | None = None, queue_max: int = 1000) -> None:
        self.topic = topic
        self.last = offset
        """Of what was queued."""
        self.stage = Stage.ASKED
        self.queue: deque[Told | Gap] = deque()
        self._queue_max = queue_max
        self._until: Offset | None = None
        self._early: list[Told] = []
        self._overflowed = False

    def ask(self) -> Offset | None:
        """From where: for the message that subscribes."""
        self.stage = Stage.ASKED
        self._until = None
        self._early.clear()
        self._overflowed = False
        return self.last

    def answered(self, now: Offset, *, complete: bool) -> None:
        """Subscribed; the topic stands at `now`, and what was missed follows unless it is lost (`complete` False)."""
        if self.stage is not Stage.ASKED:
            return  # to an earlier question
        if not complete:
            self._gap()
        if self.last is None or not complete:
            # Who loads the state after this has all that is before it.
            self.last = now
        self._until = now
        self.stage = Stage.CATCHING_UP
        self._catch_up()

    def message(self, told: Told) -> None:
        """One came."""
        if told.offset is None:
            self._queue(told)  # it is kept nowhere: now or never
        elif self.stage is Stage.LIVE:
            if not self._has(told.offset):
                self._queue(told)
        elif self.stage is not Stage.CATCHING_UP:
            return  # asked, or about to ask: it comes again
        elif not self._ahead(told.offset):
            if not self._has(told.offset):
                self._queue(told)
            self._catch_up()
        elif len(self._early) < self._queue_max:
            self._early.append(told)
        else:
            self._overflowed = True

    @property
    def wants_more(self) -> bool:
        """Whether to ask again: there is room for what did not fit."""
        return self.stage is Stage.BEHIND and len(self.queue) <= self._queue_max // 2

    def _catch_up(self) -> None:
        if self.stage is Stage.CATCHING_UP and self._until is not None and self._has(self._until):
            self.stage = Stage.LIVE
            early, self._early = self._early, []
            for told in early:
                self.message(told)
            if self._overflowed:
                self.stage = Stage.BEHIND

    def _queue(self, told: Told) -> None:
        if len(self.queue) >= self._queue_max:
            if told.offset is not None:
                self.stage = Stage.BEHIND
            else:
                self._gap()
            return
        self.queue.append(told)
        if told.offset is not None:
            self.last = told.offset

    def _gap(self) -> None:
        if not self.queue or not isinstance(self.queue[-1], Gap):
            self.queue.append(Gap(self.topic))

    def _has(self, offset: Offset) -> bool:
        last = self.last
        return last is not None and last.epoch == offset.epoch and offset.number <= last.number

    def _ahead(self, offset: Offset) -> bool:
        """Whether it was published after the answer was made."""
        until = self._until
        return until is None or offset.epoch != until.epoch or offset.number > until.number
