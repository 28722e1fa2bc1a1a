"""What the processes of a drill are told, and what they tell."""

from __future__ import annotations

import msgspec

__all__ = ["Heard", "Options"]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    folder: str
    """The hub's."""
    port: int
    sessions: int
    """Of one process of clients, from `first` on."""
    first: int = 0
    workers: int
    drain_s: float
    reconnect_s: float
    connect_per_s: float
    """Clients that begin in a second."""


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """By all clients of a process, so far."""

    connected: int
    following: int
    """Have subscribed, and go on by offset from there."""
    told: int
    """Messages, each counted once and in its turn."""
    again: int
    """That came a second time."""
    astray: int
    """That came before, or without, one that was to come first."""
    gaps: int
    """Times that a client was told that some of it is lost."""
    ended: int
    """Clients that gave up."""
    connections: int
    """All that there were."""
    began: list[tuple[int, int]]
    """When connections began, each client's first left out: (tenth of a second of the monotonic clock, how many);
    since last asked."""
    lag_s: float
    """How much later than due its loop turned, at worst; since last asked."""
    late: list[tuple[int, int]]
    """From publishing to being read: (µs, how often); since last asked."""
