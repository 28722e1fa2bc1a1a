"""What a pool of connections may do, and what it did."""

from __future__ import annotations

from typing import Literal

import msgspec

from dougong.errors import Invalid
from dougong.mesh import NO_LIMIT, ConnectionLimits

__all__ = ["PoolSettings", "PoolStats"]


class PoolSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of the connections that one client keeps to one instance. Seconds; 0 for no limit where it says so."""

    connections: int = 4
    """At once; another is made only when the ones there are full. Those that drain are not counted."""
    streams_per_connection: int = 1000
    """Calls and batch streams at once on one connection. Keep it below the server's `max_concurrent_streams`: what is
    over that hangs silently until something else ends. Servers of this room and Envoy take 1024, some strangers 100."""
    frames_per_stream: int = 16
    """Batches under way on one stream before another is opened: as many as a server works on at once."""
    creations_per_s: float = 50.0
    """Connections and streams made, in the long run."""
    creations_burst: int = 50
    error_rate: float = 0.05
    """Share of failures among connections and streams made, from which on none is made for a while."""
    error_window_s: float = 10.0
    error_count_min: int = 20
    """Fewer outcomes in the window say nothing."""
    open_s: float = 0.5
    """How long nothing is made; then one attempt at a time, until one succeeds."""
    when_open: Literal["reuse", "fail", "wait"] = "reuse"
    """What happens to a call that would need something new in that time: `reuse` waits for room on what is there, and
    fails if nothing is; `fail` fails at once, so that another instance is asked; `wait` waits in any case."""
    wait_s: float = 2.0
    """At most, for room (then `Overloaded`, `connections_full`) or for leave to make something new."""
    max_age_s: float = 1800.0
    """A connection takes nothing new after that, ends what it carries and is closed; 0 for no limit."""
    max_requests: int = 0
    """As `max_age_s`: calls and batches on one connection; 0 for no limit."""
    jitter: float = 0.1
    """So much less, at random, so that connections made together do not end together."""
    idle_s: float = 300.0
    """A stream, and a connection, that nobody used for so long is closed; 0 for never."""
    idle_streams: int = 64
    """Kept open to one instance; beyond it the one least recently used is closed."""
    suspect_after: int = 3
    """Time-outs in a row on a connection before its health is asked for."""
    check_s: float = 1.0
    """A health check not answered within this has failed."""

    def __post_init__(self) -> None:
        for name in ("connections", "streams_per_connection", "frames_per_stream", "creations_burst", "suspect_after"):
            if getattr(self, name) < 1:
                raise Invalid(f"PoolSettings.{name} is {getattr(self, name)}: at least 1", code="bad_pool_settings")
        for name in ("creations_per_s", "error_window_s", "open_s", "wait_s", "check_s"):
            if getattr(self, name) <= 0:
                raise Invalid(f"PoolSettings.{name} is {getattr(self, name)}: more than 0", code="bad_pool_settings")
        if not 0 <= self.jitter < 1 or not 0 < self.error_rate <= 1:
            raise Invalid("PoolSettings.jitter is in [0, 1), error_rate in (0, 1]", code="bad_pool_settings")

    def within(self, limits: ConnectionLimits) -> PoolSettings:
        """These settings, with what a policy limits in the place of theirs. `max_connections` bounds all hosts
        together, so one may have as many; how many calls a connection carries the pool asks the policy itself."""
        limited = {
            "connections": limits.max_connections,
            "streams_per_connection": limits.max_concurrent_streams,
        }
        changes: dict[str, int | float] = {name: limit for name, limit in limited.items() if limit != NO_LIMIT}
        if limits.max_connection_age_s:
            changes["max_age_s"] = limits.max_connection_age_s
        return msgspec.structs.replace(self, **changes) if changes else self


class PoolStats(msgspec.Struct, frozen=True):
    """What happened so far with one instance."""

    connections: int = 0
    """Open now, those that drain included."""
    streams: int = 0
    """Batch streams open now."""
    connections_created: int = 0
    streams_created: int = 0
    reused: int = 0
    """Calls and batches that found what they needed."""
    waits: int = 0
    refused: int = 0
    checks: int = 0
    """Health checks, those of new connections included."""
    retired: dict[str, int] = {}
    """Connections, by reason: `age`, `requests`, `idle`, `broken`, `unhealthy`, `sent_away`."""

    @property
    def reuse_share(self) -> float:
        """Of all calls and batches, those for which nothing had to be made."""
        made = self.connections_created + self.streams_created
        return self.reused / (self.reused + made) if self.reused + made else 0.0
