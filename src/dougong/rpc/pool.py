"""Which instance gets the next call: the listed ones, less those that just failed, power of two choices over the rest.

The resolver says who exists; a connection is kept to each and let go when its instance is no longer listed, as soon as
what is in flight on it has ended. An instance that could not be reached is passed over for a moment that doubles with
each failure (20 ms to 500 ms); when that is true of all, calls wait (within bounds) until one may be tried again.
"""

from __future__ import annotations

import asyncio
import random as stdlib_random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from dougong.errors import DeadlineExceeded, Error, Unavailable
from dougong.mesh import P2C
from dougong.registry import Instance
from dougong.rpc._transport import Connection, Transport

if TYPE_CHECKING:
    from dougong.rpc._batch_client import BatchStream

__all__ = ["FixedAddresses", "Peer", "Pool", "Resolver"]

_POLL_S = 0.01
_BACKOFF_MIN_S = 0.02
_BACKOFF_MAX_S = 0.5


class Resolver(Protocol):
    """Knows the instances of one service."""

    def instances(self) -> tuple[Instance, ...]:
        """Those that take calls now. Asked before every call, so it must be cheap: the same tuple until one changes."""

    def probe_failed(self, address: str) -> None:
        """A call to `address` found nobody there: for a resolver that was in doubt about it, the proof."""


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

    __slots__ = (
        "address",
        "connection",
        "down_until",
        "ejected",
        "failures",
        "in_flight",
        "listed",
        "opening",
        "streams",
    )

    def __init__(self, address: str, connection: Connection) -> None:
        self.address = address
        self.connection = connection
        self.in_flight = 0
        """Calls and frames under way."""
        self.failures = 0
        """In a row."""
        self.ejected = False
        """Failed lately, until `down_until`."""
        self.down_until = 0.0
        self.listed = True
        self.streams: dict[str, BatchStream] = {}
        """Open batch streams by path."""
        self.opening: dict[str, asyncio.Lock] = {}


class Pool:
    """The connections of one client."""

    def __init__(
        self,
        service: str,
        resolver: Resolver,
        transport: Transport,
        *,
        random: stdlib_random.Random | None = None,
        patience_s: float = 2.0,
    ) -> None:
        self._service = service
        self._resolver = resolver
        self._transport = transport
        self._policy = P2C(random if random is not None else stdlib_random.Random())
        self._ejected: set[Peer] = set()
        self._patience_s = patience_s
        self._seen: tuple[Instance, ...] | None = None
        self._peers: dict[str, Peer] = {}
        self._listed: list[Peer] = []
        self._leaving: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def size(self) -> int:
        """How many instances are listed."""
        self._refresh()
        return len(self._listed)

    async def pick(self, end: float, last: Error | None = None) -> Peer:
        """An instance to call, counted as in flight: give it back with `release`.

        With none listed, or all of them failing, waits a bounded while for one and then raises `last` (what is known
        from earlier attempts of the same call), else `Unavailable` (`no_instance`, `connect_failed`, `closed`) or
        `DeadlineExceeded` (`not_sent`).
        """
        peer = self._choose(asyncio.get_running_loop().time())
        if peer is None:
            peer = await self._wait(end, last)
        peer.in_flight += 1
        return peer

    def failed(self, peer: Peer) -> None:
        """It did not answer: leave it alone for a moment."""
        if peer.ejected:
            return  # one outage seen by several calls is one failure
        peer.ejected = True
        peer.down_until = asyncio.get_running_loop().time() + min(_BACKOFF_MAX_S, _BACKOFF_MIN_S * 2**peer.failures)
        peer.failures = min(peer.failures + 1, 16)
        self._ejected.add(peer)
        self._resolver.probe_failed(peer.address)

    def answered(self, peer: Peer) -> None:
        if peer.failures:
            peer.failures = 0
            peer.ejected = False
            self._ejected.discard(peer)

    def release(self, peer: Peer) -> None:
        peer.in_flight -= 1
        if not peer.listed and not peer.in_flight:
            self._let_go(peer)

    async def close(self) -> None:
        self._closed = True
        self._listed = []
        peers, self._peers = list(self._peers.values()), {}
        for peer in peers:
            peer.listed = False
            self._let_go(peer)
        while self._leaving:
            await asyncio.wait(self._leaving)

    def _choose(self, now: float) -> Peer | None:
        self._refresh()
        if self._ejected:
            for peer in [peer for peer in self._ejected if peer.down_until <= now or not peer.listed]:
                peer.ejected = False
                self._ejected.remove(peer)
            if len(self._ejected) == len(self._listed):
                return None
        return self._listed[self._policy.pick(self._listed)] if self._listed else None

    async def _wait(self, end: float, last: Error | None) -> Peer:
        loop = asyncio.get_running_loop()
        until = min(end, loop.time() + self._patience_s)
        while (now := loop.time()) < until:
            await asyncio.sleep(min(_POLL_S, until - now))
            if self._closed:
                raise last or Unavailable(f"the client of {self._service} is closed", code="closed")
            peer = self._choose(loop.time())
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

    def _refresh(self) -> None:
        instances = self._resolver.instances()
        if instances is self._seen or self._closed:
            return
        self._seen = instances
        addresses = dict.fromkeys(instance.address for instance in instances)
        for address, peer in list(self._peers.items()):
            if address not in addresses:
                del self._peers[address]
                peer.listed = False
                if not peer.in_flight:
                    self._let_go(peer)
        for address in addresses:
            if address not in self._peers:
                self._peers[address] = Peer(address, self._transport.connect(address))
        self._listed = [self._peers[address] for address in addresses]

    def _let_go(self, peer: Peer) -> None:
        task = asyncio.get_running_loop().create_task(_close(peer))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)


async def _close(peer: Peer) -> None:
    for stream in list(peer.streams.values()):
        await stream.close()
    await peer.connection.close()
