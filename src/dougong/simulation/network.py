"""The network between nodes, as a `Transport`: what `rpc.Server` and `rpc.client` run on without knowing.

A node's name is its host: a server that listens on `orders:1`, or on 127.0.0.1 as by default, is reached at `orders:1`
from every node. A message takes a while, and different messages different whiles, which reorders them. What else can
happen to a call is drawn when it is made: its request or its answer is lost, it arrives late or twice. Of a loss its
caller hears at once, later, or not until its own time is up.

As with gRPC, a call that the caller gives up is cancelled at the other end, when that message gets through, and a
method that may not be repeated is delivered at most once.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from dougong.contract import describe
from dougong.errors import Internal, Invalid, Unavailable
from dougong.rpc import Connection, Endpoint, Listener, Metadata, Stream, Transport
from dougong.simulation.answers import connect_failed, connection_lost
from dougong.simulation.calls import ANSWER_LOST, LATE, LOST, TWICE, CallHere
from dougong.simulation.faults import Chaos, Faults, FaultSource
from dougong.simulation.loop import Owner, VirtualLoop
from dougong.simulation.streams import StreamHere

__all__ = ["Network"]

_LOCAL = frozenset({"127.0.0.1", "localhost", "0.0.0.0", "::1", ""})  # noqa: S104 (compared, not bound)


class NetworkProcess(Owner, Protocol):
    """What the network has to know of a process."""

    @property
    def name(self) -> str:
        """Its node's."""

    def check(self) -> None:
        """Raise if it is dead."""


class Link:
    """One way from a node to another: its faults and its delays."""

    __slots__ = ("_delay_s", "_draw", "_kinds", "_stream_kinds", "faults", "name")

    def __init__(self, name: str, chaos: Chaos, faults: FaultSource) -> None:
        self.name = name
        self.faults = faults
        self._draw = faults.random.random
        self._delay_s = chaos.delay_s
        self._kinds = (
            (chaos.request_lost, LOST),
            (chaos.answer_lost, ANSWER_LOST),
            (chaos.request_twice, TWICE),
            (chaos.request_late, LATE),
        )
        self._stream_kinds = ((chaos.stream_broken, "stream broken"),)

    def delay_s(self) -> float:
        return self._draw() * self._delay_s

    def call(self, what: str) -> tuple[float, float, float, str, float]:
        """(way there, way back, way of the cancellation, fault, how): all there is to draw for one call."""
        draw, delay_s = self._draw, self._delay_s
        there_s, back_s, cancel = draw() * delay_s, draw() * delay_s, draw()
        fault = self.faults.strike(self._kinds, what)
        return there_s, back_s, cancel, *(fault or ("", 0.0))

    def message(self, what: str) -> tuple[float, float | None]:
        """(way, how the stream breaks on it or None)."""
        way_s = self.delay_s()
        fault = self.faults.strike(self._stream_kinds, what)
        return way_s, None if fault is None else fault[1]


class Network:
    """All links. `cut` and `join` are what partitions are made of; `World.network` is the one of a world."""

    def __init__(self, loop: VirtualLoop, chaos: Chaos, faults: Faults, note: Callable[[str, str], None]) -> None:
        self.loop = loop
        self.note = note
        self._chaos = chaos
        self._faults = faults
        self._links: dict[tuple[str, str], Link] = {}
        self._cuts: dict[frozenset[str], int] = {}
        self._listeners: dict[str, ListenerHere] = {}
        self._ports = itertools.count(1)
        self._connections: dict[NetworkProcess, list[_Connection]] = {}

    def transport(self, process: NetworkProcess) -> Transport:
        """The network as one process sees it."""
        return _ProcessTransport(self, process)

    def cut(self, one: str, other: str) -> None:
        """Two nodes no longer hear each other."""
        ends = frozenset((one, other))
        self._cuts[ends] = self._cuts.get(ends, 0) + 1

    def join(self, one: str, other: str) -> None:
        """Undo one `cut`."""
        ends = frozenset((one, other))
        left = self._cuts.get(ends, 0) - 1
        if left > 0:
            self._cuts[ends] = left
        else:
            self._cuts.pop(ends, None)

    def heal(self) -> None:
        """Everybody hears everybody."""
        self._cuts.clear()

    def hears(self, one: str, other: str) -> bool:
        """Whether messages get from one node to the other."""
        return not self._cuts or frozenset((one, other)) not in self._cuts

    def link(self, sender: str, receiver: str) -> Link:
        link = self._links.get((sender, receiver))
        if link is None:
            name = f"{sender}>{receiver}"
            source = self._faults.source(f"link {name}", name)
            chaos = self._chaos if sender != receiver else Chaos(delay_s=self._chaos.delay_s / 10)
            link = self._links[sender, receiver] = Link(name, chaos, source)
        return link

    def listener(self, address: str) -> ListenerHere | None:
        return self._listeners.get(address)

    def add(self, process: NetworkProcess, address: str, endpoint: Endpoint) -> ListenerHere:
        host, _, port = address.rpartition(":")
        host = process.name if host in _LOCAL else host
        if host != process.name:
            raise Invalid(f"{process.name} cannot listen on {address}: that is another node", code="bad_address")
        address = f"{host}:{next(self._ports) if port == '0' else port}"
        if address in self._listeners:
            raise Unavailable(f"{address} is taken by another server", code="address_taken", address=address)
        listener = self._listeners[address] = ListenerHere(self, process, address, endpoint)
        return listener

    def connected(self, process: NetworkProcess, connection: _Connection) -> None:
        self._connections.setdefault(process, []).append(connection)

    def remove(self, listener: ListenerHere) -> None:
        if self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]

    def process_died(self, process: NetworkProcess) -> None:
        """Its servers are gone and its calls are broken off, as the other ends will notice."""
        for listener in [listener for listener in self._listeners.values() if listener.process is process]:
            self.remove(listener)
            listener.died()
        for connection in self._connections.pop(process, ()):
            connection.died()


class ListenerHere:
    """An endpoint that can be reached. Each call runs as a task of the process that listens."""

    def __init__(self, network: Network, process: NetworkProcess, address: str, endpoint: Endpoint) -> None:
        self._network = network
        self.process = process
        self.host = process.name
        self._address = address
        self.endpoint = endpoint
        self._calls: dict[asyncio.Task[Any], Callable[[], object]] = {}
        """Calls being served → what their callers notice when the process dies."""
        self._idempotent = frozenset(
            method.path
            for service in endpoint.service_types
            for method in describe(service).methods
            if method.idempotent
        )

    @property
    def address(self) -> str:
        return self._address

    def may_repeat(self, path: str) -> bool:
        return path in self._idempotent

    async def set_serving(self, serving: bool) -> None:
        pass

    async def stop(self, grace_s: float) -> None:
        self._network.remove(self)
        calls = list(self._calls)
        if calls:
            await asyncio.wait(calls, timeout=grace_s)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    def serve(self, work: Coroutine[Any, Any, Any], broken: Callable[[], object]) -> asyncio.Task[Any]:
        """Run a handler on the process's behalf."""
        call = self._network.loop.create_task(work, context=contextvars.Context(), owner=self.process)
        self._calls[call] = broken
        return call

    def served(self, call: asyncio.Task[Any]) -> None:
        self._calls.pop(call, None)

    def died(self) -> None:
        calls, self._calls = self._calls, {}
        for broken in calls.values():
            broken()


class _ProcessTransport:
    """A `Transport`."""

    def __init__(self, network: Network, process: NetworkProcess) -> None:
        self._network = network
        self._process = process

    async def listen(self, address: str, endpoint: Endpoint) -> Listener:
        self._process.check()
        return self._network.add(self._process, address, endpoint)

    def connect(self, address: str) -> Connection:
        self._process.check()
        host, _, port = address.rpartition(":")
        if host in _LOCAL:
            address = f"{self._process.name}:{port}"
        connection = _Connection(self._network, self._process, address)
        self._network.connected(self._process, connection)
        return connection


class _Connection:
    """A `Connection`: one client's way to one address."""

    def __init__(self, network: Network, process: NetworkProcess, address: str) -> None:
        self._network = network
        self._process = process
        self._address = address
        self._host = address.rpartition(":")[0]
        self._there = network.link(process.name, self._host)
        self._back = network.link(self._host, process.name)
        self._calls: dict[CallHere, None] = {}
        self._streams: dict[StreamHere, None] = {}

    async def unary(self, path: str, request: bytes, metadata: Metadata, timeout_s: float | None) -> bytes:
        self._process.check()
        call = CallHere(self._network, self._process, self._there, self._address, path, request, metadata, timeout_s)
        self._calls[call] = None
        try:
            return await call.answer
        finally:
            self._calls.pop(call, None)
            call.leave()

    async def stream(self, path: str, metadata: Metadata, timeout_s: float | None) -> Stream:
        self._process.check()
        network = self._network
        await asyncio.sleep(self._there.delay_s() + self._back.delay_s())
        listener = network.listener(self._address)
        if listener is None or not network.hears(self._process.name, self._host):
            raise connect_failed(self._address)
        route = listener.endpoint.routes.get(path)
        if route is None or route.stream is None:
            raise Internal(f"{self._address} has no stream {path}", code="unimplemented")
        stream = StreamHere(network, listener, self._process, self._there, self._back, path, metadata, timeout_s)
        stream.open(route.stream)
        self._streams[stream] = None
        stream.on_end = lambda: self._streams.pop(stream, None)
        return stream

    async def close(self) -> None:
        for call in list(self._calls):
            call.fail(connection_lost(self._address, "the connection was closed"))
        for stream in list(self._streams):
            stream.cancel()

    def died(self) -> None:
        """The client's process is dead: the other ends will notice."""
        for call in list(self._calls):
            call.leave()
        for stream in list(self._streams):
            stream.cancel()
