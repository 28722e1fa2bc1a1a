"""Which instance gets the next call: those the resolver lists, as the policy of their cluster has it.

The resolver says who exists; connections are kept to each and let go when its instance is no longer listed, as soon as
what is in flight on them has ended. The cluster (`dougong.mesh`) says who of them may be called, whether at all, and
who it is to be. An instance that could not be reached rests for a moment that doubles with each failure (20 ms to
500 ms); when all do, calls wait (within bounds) until one may be tried again.
"""

from __future__ import annotations

import asyncio
import functools
import random as stdlib_random
from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

from dougong.errors import DeadlineExceeded, Error, Unavailable
from dougong.mesh import (
    CONNECT_FAILED,
    OK,
    RESET,
    TIMEOUT,
    BalancerKind,
    Cluster,
    Host,
    Mode,
    Outcome,
    observe,
    of_grpc,
)
from dougong.registry import Instance
from dougong.rpc import _meters
from dougong.rpc._connections import Connections
from dougong.rpc._load import DRAINING
from dougong.rpc._transport import Lost, Transport
from dougong.rpc.pool_settings import PoolSettings, PoolStats
from dougong.rpc.why import CallRecord

__all__ = ["FixedAddresses", "Peer", "Pool", "Resolver"]

_POLL_S = 0.01
_DRAWS_MAX = 4  # again, as Envoy: five in all
_BACKOFF_MIN_S = 0.02
_BACKOFF_MAX_S = 0.5


class Resolver(Protocol):
    """Knows the instances of one service."""

    def instances(self) -> tuple[Instance, ...]:
        """Those that take calls now. Asked before every call, so it must be cheap: the same tuple until one changes."""

    def probe_failed(self, address: str) -> None:
        """A call to `address` found nobody there, or got no answer in time: a doubt, which a probe may settle."""


@runtime_checkable
class Revisioned(Protocol):
    """A resolver whose table of instances has a number that grows."""

    @property
    def revision(self) -> int:
        """Of the table as it is now."""


class FixedAddresses:
    """A resolver for addresses that are known beforehand."""

    def __init__(self, service: str, addresses: Sequence[str]) -> None:
        self._instances = tuple(Instance(service=service, address=address) for address in addresses)

    def instances(self) -> tuple[Instance, ...]:
        return self._instances

    def probe_failed(self, address: str) -> None:
        """They were given, so they stay."""


class Peer:
    """One instance as one client sees it."""

    __slots__ = ("address", "connections", "down_until", "failures", "host", "listed")

    def __init__(self, address: str, connections: Connections, host: Host) -> None:
        self.address = address
        self.connections = connections
        self.host = host
        """What its cluster knows of it: calls and frames under way, whether it is away."""
        self.failures = 0
        """To reach it, in a row."""
        self.down_until = 0.0
        """It rests until then."""
        self.listed = True


class Pool:
    """The connections of one client to one destination."""

    def __init__(
        self,
        service: str,
        resolver: Resolver,
        transport: Transport,
        cluster: Cluster,
        *,
        patience_s: float = 2.0,
        settings: PoolSettings | None = None,
        repeatable: bool = False,
    ) -> None:
        self.cluster = cluster
        self._service = service
        self._resolver = resolver
        self._transport = transport
        self._settings = settings if settings is not None else PoolSettings()
        self._repeatable = repeatable
        self._enhanced = cluster.mode is Mode.ENHANCED and cluster.policy.outlier is not None
        self._observes = cluster.policy.balancing.kind is BalancerKind.PEAK_EWMA
        self._resting: dict[Peer, None] = {}
        self._patience_s = patience_s
        self._seen: tuple[Instance, ...] | None = None
        self._peers: dict[str, Peer] = {}
        self._listed: list[Peer] = []
        self._unlisted: set[Peer] = set()
        """With calls under way that may still end."""
        self._leaving: set[asyncio.Task[None]] = set()
        self._closed = False
        _meters.watch(self)

    @property
    def size(self) -> int:
        """How many instances are listed."""
        self._refresh(asyncio.get_running_loop().time())
        return len(self._listed)

    def stats(self) -> dict[str, PoolStats]:
        """What happened with each instance, by address."""
        return {address: peer.connections.stats for address, peer in self._peers.items()}

    def figures(self) -> list[PoolStats]:
        """As `stats`, with those that are no longer listed and still have calls under way."""
        return [peer.connections.stats for peer in (*self._peers.values(), *self._unlisted)]

    async def pick(self, end: float, last: Error | None = None, tried: Collection[Host] = ()) -> Peer:
        """An instance to call, counted as in flight: give it back with `release`. One of `tried` if there is no other.

        With none listed, or all of them resting, waits a bounded while for one and then raises `last` (what is known
        from earlier attempts of the same call), else `Unavailable` (`no_instance`, `connect_failed`, `closed`) or
        `DeadlineExceeded` (`not_sent`). With all of them ejected, `last` or `Unavailable` (`no_healthy_host`) at once.
        """
        peer = self._choose(asyncio.get_running_loop().time(), last)
        for _ in range(_DRAWS_MAX):
            if peer is None or peer.host not in tried:
                break
            peer = self._choose(asyncio.get_running_loop().time(), last)
        if peer is None:
            peer = await self._wait(end, last)
        peer.host.in_flight += 1
        return peer

    def note(self, record: CallRecord, peer: Peer) -> None:
        """One attempt more, at `peer`, for whoever asked."""
        record.attempts += 1
        record.endpoint = peer.address
        record.instances = len(self._listed)
        resolver = self._resolver
        record.revision = resolver.revision if isinstance(resolver, Revisioned) else 0

    def failed(self, peer: Peer, lost: Lost, began: float, end: float) -> None:
        """It did not answer the call of `began`, which had until `end`: leave it alone for a moment."""
        now = asyncio.get_running_loop().time()
        if self._observes:
            observe(peer.host, max(now, end) - began, now)  # no answer is no fast answer
        if lost.error.code != DRAINING:  # it said goodbye, as it should
            if lost.started:
                self.cluster.sent(peer.host)
            self.cluster.report(peer.host, RESET if lost.started else CONNECT_FAILED, now)
        self._resolver.probe_failed(peer.address)  # each time: while it rests from one failure it may die of another
        if peer.host.resting:
            return  # one outage seen by several calls is one failure
        self.cluster.rest(peer.host)
        peer.down_until = now + min(_BACKOFF_MAX_S, _BACKOFF_MIN_S * 2**peer.failures)
        peer.failures = min(peer.failures + 1, 16)
        self._resting[peer] = None

    def answered(self, peer: Peer, began: float, error: Error | None = None) -> None:
        """It did, with a response or with the method's own error."""
        now = asyncio.get_running_loop().time()
        if self._observes:
            observe(peer.host, now - began, now)
        outcome = OK if error is None or not self._enhanced else _outcome(error)
        self.cluster.sent(peer.host)
        self.cluster.report(peer.host, outcome, now)
        self._reached(peer)

    def answered_items(self, peer: Peer, began: float, outcomes: Sequence[object]) -> None:
        """It answered a batch. The batch is one answer; what became of its items is looked at in enhanced mode only."""
        now = asyncio.get_running_loop().time()
        if self._observes:
            observe(peer.host, now - began, now)
        errors = [outcome for outcome in outcomes if isinstance(outcome, Error)] if self._enhanced else []
        self.cluster.sent(peer.host)
        if errors and len(errors) == len(outcomes):
            for error in errors:
                self.cluster.item(peer.host, _outcome(error), now)
        elif errors:
            for outcome in outcomes:
                self.cluster.item(peer.host, _outcome(outcome) if isinstance(outcome, Error) else OK, now)
        else:
            self.cluster.report(peer.host, OK, now)
        self._reached(peer)

    def timed_out(self, peer: Peer, began: float) -> None:
        """A call's time was over before it answered: perhaps it hangs, and whoever lists instances may ask it."""
        now = asyncio.get_running_loop().time()
        if self._observes:
            observe(peer.host, now - began, now)
        self.cluster.sent(peer.host)
        self.cluster.report(peer.host, TIMEOUT, now)
        self._resolver.probe_failed(peer.address)

    def release(self, peer: Peer) -> None:
        peer.host.in_flight -= 1
        if not peer.listed and not peer.host.in_flight and peer in self._unlisted:
            self._unlisted.remove(peer)
            self._let_go(peer)

    async def close(self) -> None:
        self._closed = True
        self._listed = []
        peers = [*self._peers.values(), *self._unlisted]
        self._peers = {}
        self._unlisted.clear()
        for peer in peers:
            peer.listed = False
            self._let_go(peer)
        _meters.forget(self)
        while self._leaving:
            await asyncio.wait(self._leaving)

    def _choose(self, now: float, last: Error | None) -> Peer | None:
        """None: nobody right now."""
        self._refresh(now)
        if self._resting:
            for peer in [peer for peer in self._resting if peer.down_until <= now or not peer.listed]:
                self.cluster.wake(peer.host)
                del self._resting[peer]
        if not self._listed:
            return None
        try:
            return self._peers[self.cluster.pick(now).address]
        except Unavailable as nobody:
            if nobody.code == "no_endpoint":
                return None
            raise last or nobody from None

    def _reached(self, peer: Peer) -> None:
        if peer.failures:
            peer.failures = 0
            self.cluster.wake(peer.host)
            self._resting.pop(peer, None)

    async def _wait(self, end: float, last: Error | None) -> Peer:
        loop = asyncio.get_running_loop()
        until = min(end, loop.time() + self._patience_s)
        while (now := loop.time()) < until:
            await asyncio.sleep(min(_POLL_S, until - now))
            if self._closed:
                raise last or Unavailable(f"the client of {self._service} is closed", code="closed")
            peer = self._choose(loop.time(), last)
            if peer is not None:
                return peer
        if last is not None:
            raise last
        if self._listed:
            raise Unavailable(f"no instance of {self._service} can be reached", code="connect_failed")
        if until == end:
            raise DeadlineExceeded(
                f"no instance of {self._service} turned up in time: nothing was done", code="not_sent"
            )
        raise Unavailable(
            f"no instance of {self._service} is known after {self._patience_s} s: is it started and registered?",
            code="no_instance",
            service=self._service,
        )

    def _refresh(self, now: float) -> None:
        instances = self._resolver.instances()
        if instances is self._seen or self._closed:
            return
        self._seen = instances
        self.cluster.update(instances, now)
        hosts = {host.address: host for host in self.cluster.hosts}
        for address, peer in list(self._peers.items()):
            if address not in hosts:
                del self._peers[address]
                peer.listed = False
                if peer.host.in_flight:
                    self._unlisted.add(peer)
                else:
                    self._let_go(peer)
        for address, host in hosts.items():
            if address not in self._peers:
                # Of its own: what connections draw must not change which instances are picked.
                jitter = stdlib_random.Random(address if self._repeatable else None)
                connections = Connections(
                    address,
                    self._transport.connect,
                    self._settings,
                    jitter,
                    self.cluster.limits,
                    functools.partial(self._resolver.probe_failed, address),
                )
                self._peers[address] = Peer(address, connections, host)
        self._listed = [self._peers[address] for address in hosts]

    def _let_go(self, peer: Peer) -> None:
        _meters.left(self.cluster, peer.connections.stats)
        task = asyncio.get_running_loop().create_task(peer.connections.close())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)


def _outcome(error: Error) -> Outcome:
    return of_grpc(error.grpc_status, Mode.ENHANCED)
