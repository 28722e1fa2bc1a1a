"""What the stream pool speaks of: connections, streams on them, how a use of one ended, and what to do next."""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum

import msgspec

__all__ = ["Check", "Held", "Link", "LinkState", "Open", "Refuse", "Step", "Used", "Wait"]


class LinkState(Enum):
    """What a connection may be used for."""

    CHECKING = "checking"
    READY = "ready"
    SUSPECT = "suspect"
    """Nothing new until its health was asked for."""
    DRAINING = "draining"
    """Nothing new any more."""
    CLOSED = "closed"


class Used(Enum):
    """How a use of a connection ended."""

    ANSWERED = "answered"
    TIMED_OUT = "timed_out"
    LOST = "lost"
    """Or could not be had."""
    SENT_AWAY = "sent_away"
    """The server is about to stop."""
    LEFT = "left"
    """The caller gave up, which says nothing."""


class Link:
    """One connection."""

    __slots__ = ("busy", "expires_at", "idle_since", "left", "opened_at", "state", "timeouts")

    def __init__(self, now: float, expires_at: float, left: int) -> None:
        self.state = LinkState.CHECKING
        self.opened_at = now
        self.expires_at = expires_at
        self.left = left
        """Requests it may still carry."""
        self.busy = 0
        """Calls under way and batch streams open: what the server counts as concurrent streams."""
        self.timeouts = 0
        """In a row."""
        self.idle_since = now


class Held:
    """One batch stream on a link."""

    __slots__ = ("ended", "frames", "idle_since", "key", "link", "opening")

    def __init__(self, key: Hashable, link: Link) -> None:
        self.key = key
        self.link = link
        self.frames = 0
        """Batches under way."""
        self.idle_since = 0.0
        self.opening = True
        self.ended = False
        """Takes nothing more."""


class Check(msgspec.Struct, frozen=True):
    """Connect `link` and ask for its health, then say `checked`, then ask again."""

    link: Link


class Open(msgspec.Struct, frozen=True):
    """Open `held`, then say `opened` (it is leased then) or `stream_ended`."""

    held: Held


class Wait(msgspec.Struct, frozen=True):
    """Ask again when something changed, at `until` at the latest (None: only then)."""

    why: str
    until: float | None = None


class Refuse(msgspec.Struct, frozen=True):
    """Nothing is to be had here now."""

    why: str


Step = Check | Wait | Refuse
