"""Which connection and which stream a call gets, what is made anew, and what is closed: the decisions, without I/O.

A batch stream is bound to its connection and used again; several batches share one until `frames_per_stream` are under
way. Time is passed in, what is to be closed is left in `closing`; `_connections` carries it out.

    link    CHECKING ──ok──▶ READY ──lost, timed out──▶ SUSPECT ──taken──▶ CHECKING
               └──failed──▶ DRAINING ◀──age, requests, idle, sent away──┘
                               └──nothing on it any more──▶ CLOSED

What all instances of a cluster may have together (connections, calls that wait, calls on them) its `Limits` say, which
are asked here and nowhere else.

Only a READY link gets anything. One link at a time is checked, and one stream per key is opened at a time: the others
wait for it, so that a thousand calls that find nothing make one thing and not a thousand.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from random import Random

from dougong.mesh import NO_LIMIT, ConnectionLimits, Limits
from dougong.rpc._creation import CreationGate
from dougong.rpc._pool_parts import Check, Held, Link, LinkState, Open, Refuse, Step, Used, Wait
from dougong.rpc.pool_settings import PoolSettings, PoolStats

__all__ = ["StreamPool"]

_UNLIMITED = 1 << 62
_PUT_OFF_S = 1.0


class StreamPool:
    """The connections to one instance."""

    def __init__(self, settings: PoolSettings, now: float, random: Random, limits: Limits | None = None) -> None:
        """`limits` are those of the cluster, all its instances together."""
        self.settings = settings
        self._limits = limits if limits is not None else Limits(ConnectionLimits())
        carried = self._limits.policy.max_requests_per_connection
        self._carried_max = 0 if carried == NO_LIMIT else carried
        """Policy's, to be kept to the letter; ours has a jitter and may be put off."""
        self._closed = False
        self._gate = CreationGate(settings, now)
        self._random = random
        self._ready: list[Link] = []
        self._checking: Link | None = None
        self._suspects: list[Link] = []
        self._draining: set[Link] = set()
        self._streams: dict[Hashable, list[Held]] = {}
        self._opening: set[Hashable] = set()
        self._idle: OrderedDict[Held, None] = OrderedDict()
        """The least recently used first."""
        self._streams_open = 0
        self._created = self._streams_created = self._reused = self._waits = self._refused = self._checks = 0
        self._retired: dict[str, int] = {}
        self.closing: deque[Link | Held] = deque()
        """To be closed by whoever asked, in this order."""

    def lease_link(self, now: float, *, waiting: bool = False) -> Link | Step:
        """A connection for one call; to be given back with `release_link`.

        With a step in its place the call is pending from then on: carry the step out and ask again as `waiting`, until
        there is a connection or the call gives up, and tell `Limits.waited` either way.
        Raises `Overloaded`: `max_requests`, `max_pending`.
        """
        limit = self.settings.streams_per_connection
        for link in self._ready:
            if link.busy < limit and (now < link.expires_at or not self._retire(link, now, "age")):
                self._limits.begin()
                self._reused += 1
                link.busy += 1  # before the charge, which may retire it
                self._charge(link, now)
                return link
        if self._idle and self._full and self._make_room(now) is not None:
            return self.lease_link(now, waiting=waiting)
        if not waiting:
            self._limits.wait()
        return self._more(now)

    def lease_stream(self, key: Hashable, now: float, *, waiting: bool = False) -> Held | Open | Step:
        """A stream for one batch; to be given back with `release_stream`. Otherwise as `lease_link`; a call whose
        stream is to be opened does not wait."""
        room = self.settings.frames_per_stream
        for held in self._streams.get(key, ()):
            link = held.link
            if held.frames < room and link.state is LinkState.READY:
                if now >= link.expires_at and self._retire(link, now, "age"):
                    return self.lease_stream(key, now, waiting=waiting)
                self._limits.begin()
                if not held.frames:
                    del self._idle[held]
                held.frames += 1
                self._reused += 1
                self._charge(link, now)
                return held
        if key in self._opening:
            if not waiting:
                self._limits.wait()
            self._waits += 1
            return Wait("opening")
        return self._new_stream(key, now, waiting)

    def release_link(self, link: Link, now: float, used: Used) -> None:
        self._limits.end()
        link.busy -= 1
        self._learn(link, now, used)
        self._settle(link, now)

    def release_stream(self, held: Held, now: float, used: Used) -> None:
        self._limits.end()
        held.frames -= 1
        assert held.frames >= 0, "given back twice"
        if not held.frames:
            if held.ended:
                self._end(held)
            else:
                held.idle_since = now
                self._idle[held] = None
        self._learn(held.link, now, used)
        if held.link.state is LinkState.DRAINING:
            self._close_idle(held.link, now)
        while len(self._idle) > self.settings.idle_streams:
            self._close_stream(next(iter(self._idle)), now)
        self._settle(held.link, now)

    def checked(self, link: Link, now: float, failure: str = "") -> None:
        """Connected and healthy, or why not (a reason to retire: `broken`, `unhealthy`, `sent_away`)."""
        assert self._checking is link, "only one is checked at a time"
        self._checking = None
        if failure:
            self._gate.failed(now)
            link.state = LinkState.SUSPECT
            self._drain(link, now, failure)
            return
        self._gate.succeeded(now)
        link.state = LinkState.READY
        link.timeouts = 0
        link.idle_since = now
        self._ready.append(link)

    def leaving(self, link: Link, now: float) -> None:
        """The other side will answer what it has and take nothing more on it."""
        if link.state in (LinkState.READY, LinkState.SUSPECT):
            self._drain(link, now, "sent_away")

    def opened(self, held: Held, now: float) -> None:
        """It is leased for one batch."""
        self._gate.succeeded(now)
        self._opening.discard(held.key)
        held.opening = False
        held.frames = 1
        self._streams.setdefault(held.key, []).append(held)

    def stream_ended(self, held: Held, now: float, used: Used = Used.LEFT) -> None:
        """It could not be opened, or broke, or the server takes nothing more on it.

        Batches on it are given back all the same, and it counts until then: the server may still answer them.
        """
        if held.ended:
            return
        held.ended = True
        if held.opening:
            held.opening = False
            self._opening.discard(held.key)
            self._limits.end()
        else:
            self._forget(held)
        if not held.frames:
            self._end(held)
        self._learn(held.link, now, used)
        self._settle(held.link, now)

    def abandon(self) -> None:
        """All connections are closed from outside: they no longer count, and none is made any more."""
        self._closed = True
        for link in (*self._ready, *self._suspects, *self._draining):
            link.state = LinkState.CLOSED
            self._limits.closed()
        self._ready.clear()
        self._suspects.clear()
        self._draining.clear()

    def tick(self, now: float) -> float | None:
        """Close what is too old or idle for too long; when to call again, None for not before something changes."""
        idle_s = self.settings.idle_s
        for link in [link for link in self._ready if now >= link.expires_at]:
            self._retire(link, now, "age")
        if idle_s:
            while self._idle and now >= (held := next(iter(self._idle))).idle_since + idle_s:
                self._close_stream(held, now)
            unused = [link for link in (*self._ready, *self._suspects) if not link.busy]
            for link in [link for link in unused if now >= link.idle_since + idle_s]:
                self._drain(link, now, "idle")
        times = [link.expires_at for link in self._ready if link.expires_at > now]
        if idle_s:
            links = (*self._ready, *self._suspects)
            # Busy ones, too: when they fall idle, nobody sets the timer.
            times += [(now if link.busy else link.idle_since) + idle_s for link in links]
            if self._idle:
                times.append(next(iter(self._idle)).idle_since + idle_s)
        return min((at for at in times if at != float("inf")), default=None)

    @property
    def stats(self) -> PoolStats:
        return PoolStats(
            connections=self._links,
            streams=self._streams_open,
            connections_created=self._created,
            streams_created=self._streams_created,
            reused=self._reused,
            waits=self._waits,
            refused=self._refused,
            checks=self._checks,
            retired=dict(self._retired),
        )

    @property
    def _links(self) -> int:
        return len(self._ready) + len(self._suspects) + len(self._draining) + (self._checking is not None)

    def _new_stream(self, key: Hashable, now: float, waiting: bool) -> Open | Step:
        limit = self.settings.streams_per_connection
        link = next((link for link in self._ready if link.busy < limit and now < link.expires_at), None)
        if link is None:
            # An idle stream of another method makes room before a connection is made for it.
            link = self._make_room(now)
            if link is None:
                if not waiting:
                    self._limits.wait()
                return self._more(now)
        self._limits.may_begin()  # before the gate, which counts on what it lets through
        until = self._gate.admit(now)
        if until:
            if not waiting:
                self._limits.wait()
            return self._not_now(now, until)
        self._limits.begin()
        self._opening.add(key)
        self._streams_created += 1
        self._streams_open += 1
        link.busy += 1
        held = Held(key, link)
        self._charge(link, now)
        return Open(held)

    def _more(self, now: float) -> Step:
        """No ready connection has room."""
        if self._closed:
            return Refuse("closed")
        if self._checking is not None:
            self._waits += 1
            return Wait("connecting")
        if not self._suspects and not self._may_open():
            self._waits += 1
            return Wait("full")
        until = self._gate.admit(now)
        if until:
            return self._not_now(now, until)
        if self._suspects:
            link = self._suspects.pop()
            link.state = LinkState.CHECKING
        else:
            link = self._new_link(now)
        self._checks += 1
        self._checking = link
        return Check(link)

    @property
    def _full(self) -> bool:
        """No connection may be made, nor is one on its way."""
        if self._checking is not None or self._suspects or not self._links:
            return False
        return len(self._ready) >= self.settings.connections or not self._limits.room

    def _make_room(self, now: float) -> Link | None:
        """By closing the stream least recently used that nobody uses now; None without one."""
        for held in self._idle:
            if held.link.state is LinkState.READY and now < held.link.expires_at:
                self._close_stream(held, now)
                return held.link
        return None

    def _may_open(self) -> bool:
        if len(self._ready) < self.settings.connections:
            return self._limits.may_open(has_one=self._links > 0)
        self._limits.counters.upstream_cx_overflow += 1
        return False

    def _new_link(self, now: float) -> Link:
        settings = self.settings
        less = 1.0 - settings.jitter * self._random.random()
        expires_at = now + settings.max_age_s * less if settings.max_age_s else float("inf")
        left = max(1, round(settings.max_requests * less)) if settings.max_requests else _UNLIMITED
        self._created += 1
        self._limits.opened()
        return Link(now, expires_at, self._carried_max or left)

    def _not_now(self, now: float, until: float) -> Step:
        """The gate is shut."""
        policy = self.settings.when_open
        if self._gate.open and (policy == "fail" or (policy == "reuse" and not self._ready)):
            self._refused += 1
            return Refuse("breaker_open")
        self._waits += 1
        return Wait("breaker_open" if self._gate.open else "creation_rate", until)

    def _charge(self, link: Link, now: float) -> None:
        """One request more on it; the last one it may carry is carried."""
        link.left -= 1
        if link.left <= 0:
            if self._carried_max:
                self._drain(link, now, "requests")
            else:
                self._retire(link, now, "requests")

    def _retire(self, link: Link, now: float, reason: str) -> bool:
        """In good order, so put off while as many as may be open are draining already: a call that lasts for hours
        keeps its connection, and must neither be broken off nor make them pile up. Nor must it, where the cluster has
        no connection left to take the place of this one, keep all others from being made."""
        if len(self._draining) >= self.settings.connections:
            return False
        if reason == "age" and not self._limits.room and link.busy > sum(held.link is link for held in self._idle):
            link.expires_at = now + _PUT_OFF_S
            return False
        self._drain(link, now, reason)
        return True

    def _learn(self, link: Link, now: float, used: Used) -> None:
        if used is Used.ANSWERED:
            link.timeouts = 0
        elif link.state is not LinkState.READY:
            return
        elif used is Used.SENT_AWAY:
            self._drain(link, now, "sent_away")
        elif used is Used.LOST or (used is Used.TIMED_OUT and self._timed_out(link)):
            if used is Used.LOST:
                self._gate.failed(now)
            self._ready.remove(link)
            self._suspects.append(link)
            link.state = LinkState.SUSPECT

    def _timed_out(self, link: Link) -> bool:
        link.timeouts += 1
        return link.timeouts >= self.settings.suspect_after

    def _drain(self, link: Link, now: float, reason: str) -> None:
        if link.state is LinkState.READY:
            self._ready.remove(link)
        elif link in self._suspects:
            self._suspects.remove(link)
        link.state = LinkState.DRAINING
        self._draining.add(link)
        self._retired[reason] = self._retired.get(reason, 0) + 1
        if reason == "requests":
            self._limits.counters.upstream_cx_max_requests += 1
        self._close_idle(link, now)
        self._settle(link, now)

    def _settle(self, link: Link, now: float) -> None:
        """Something on it ended."""
        assert link.busy >= 0, "given back twice"
        if link.busy:
            return
        link.idle_since = now
        if link.state is LinkState.DRAINING:
            link.state = LinkState.CLOSED
            self._draining.discard(link)
            self._limits.closed()
            self.closing.append(link)

    def _close_idle(self, link: Link, now: float) -> None:
        for held in [held for held in self._idle if held.link is link]:
            self._close_stream(held, now)

    def _close_stream(self, held: Held, now: float) -> None:
        """An idle one."""
        assert not held.frames, "batches are under way on it"
        held.ended = True
        self._forget(held)
        self.closing.append(held)
        self._end(held)
        self._settle(held.link, now)

    def _end(self, held: Held) -> None:
        self._streams_open -= 1
        held.link.busy -= 1

    def _forget(self, held: Held) -> None:
        self._idle.pop(held, None)
        streams = self._streams[held.key]
        streams.remove(held)
        if not streams:
            del self._streams[held.key]
