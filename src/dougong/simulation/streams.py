"""Streams over the simulated network: messages of one direction keep their order, and a stream breaks as a whole."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from dougong.rpc import Incoming, Lost, Metadata
from dougong.simulation.answers import arrived, check_size, connection_lost

if TYPE_CHECKING:
    from dougong.simulation.loop import VirtualLoop
    from dougong.simulation.network import Link, ListenerHere, Network, NetworkProcess

__all__ = ["StreamHere"]

_WINDOW = 64
"""Messages under way or unread in each direction before a sender has to wait."""
_RESET_S_MAX = 2.0


class _Pipe:
    """One direction: what was sent arrives in order, whichever callback comes first."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._sent: deque[bytes | Exception | None] = deque()
        self._last_s = 0.0
        """When what was sent last arrives."""
        self._arrived: deque[bytes | None] = deque()
        self._ended = False
        self.failure: Exception | None = None
        """Why nothing more comes after what has arrived."""
        self._waiting: list[asyncio.Future[None]] = []
        self.on_failure: Callable[[], object] = _nothing

    @property
    def full(self) -> bool:
        return len(self._sent) + len(self._arrived) >= _WINDOW

    def send(self, message: bytes | Exception | None, way_s: float) -> None:
        """Put something on its way; None is the regular end, an exception what comes instead of more."""
        now = self._loop.time()
        self._last_s = max(self._last_s, now + way_s)
        self._sent.append(message)
        self._loop.later(self._last_s - now, self._arrive)

    def _arrive(self) -> None:
        message = self._sent.popleft()
        if isinstance(message, Exception):
            self.fail(message)
        elif self.failure is None:
            self._arrived.append(message)
            self.change()

    def fail(self, failure: Exception) -> None:
        """Nothing more arrives."""
        if self.failure is None:
            self.failure = failure
            self.change()
            self.on_failure()

    def change(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self) -> None:
        """For anything to change."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(future)
        await future

    async def get(self) -> bytes | None:
        while not self._arrived:
            if self._ended:
                return None
            if self.failure is not None:
                raise self.failure
            await self.wait()
        message = self._arrived.popleft()
        self._ended = message is None
        self.change()
        return message


class StreamHere:
    """The client's end, a `Stream`."""

    def __init__(
        self,
        network: Network,
        listener: ListenerHere,
        client: NetworkProcess,
        there: Link,
        back: Link,
        path: str,
        metadata: Metadata,
        timeout_s: float | None,
    ) -> None:
        self._network = network
        self._listener = listener
        self._client = client
        self._links = there, back
        self._path = path
        self._metadata = metadata
        self._timeout_s = timeout_s
        self._up = _Pipe(network.loop)
        self._down = _Pipe(network.loop)
        self._down.on_failure = self._up.change
        self._call: asyncio.Task[None] | None = None
        self._broken = False
        self.on_end: Callable[[], object] = _nothing

    def open(self, handler: Callable[[Incoming], Awaitable[None]]) -> None:
        """Start the server's side."""
        self._network.note(self._listener.host, f"< {self._client.name} {self._path} (stream)")
        self._call = self._listener.serve(self._serve(handler), self._server_died)
        self._call.add_done_callback(self._served)

    async def send(self, message: bytes) -> None:
        self._client.check()
        check_size(message, self._listener.endpoint)
        await self.put(self._up, 0, message)

    async def finish(self) -> None:
        self._client.check()
        await self.put(self._up, 0, None)

    async def receive(self) -> bytes | None:
        self._client.check()
        return await self._down.get()

    def cancel(self) -> None:
        """The client gives up; the server notices after a while."""
        call = self._call
        if call is not None and not call.done():
            self._network.loop.later(self._links[0].delay_s(), call.cancel)
        self.on_end()

    async def put(self, pipe: _Pipe, way: int, message: bytes | None) -> None:
        """Send in one direction: 0 to the server, 1 back."""
        while (pipe.full or self._broken) and self._down.failure is None:
            await pipe.wait()
        if self._down.failure is not None:
            raise self._down.failure if way == 0 else self._lost("the client went away")
        network = self._network
        way_s, breaks = self._links[way].message(self._path)
        if breaks is None and not network.hears(self._client.name, self._listener.host):
            breaks = 0.5
        if breaks is not None:
            self._break(breaks)
            return  # as into any socket: it will be noticed later
        pipe.send(message, way_s)

    async def _serve(self, handler: Callable[[Incoming], Awaitable[None]]) -> None:
        incoming = _IncomingHere(self, self._up, self._metadata, self._timeout_s)
        async with asyncio.timeout(self._timeout_s):
            await handler(incoming)

    def received(self, pipe: _Pipe) -> Awaitable[bytes | None]:
        self._listener.process.check()
        return pipe.get()

    async def answer(self, message: bytes) -> None:
        self._listener.process.check()
        check_size(message, self._listener.endpoint)
        await self.put(self._down, 1, message)

    def _served(self, call: asyncio.Task[None]) -> None:
        self._listener.served(call)
        failure: Exception
        if call.cancelled():
            failure = self._lost("it went away")
        elif (error := call.exception()) is not None:
            failure = arrived(error)
        else:
            failure = self._lost("the stream has ended")
            self._down.send(None, 0.0)
        self._down.send(failure, 0.0)
        self.on_end()

    def _server_died(self) -> None:
        self._network.loop.later(self._links[1].delay_s(), self._down.fail, self._lost("it went away"))

    def _break(self, how: float) -> None:
        """Both ends notice, each in its own time."""
        if self._broken:
            return
        self._broken = True
        self._network.loop.later(how * _RESET_S_MAX, self._down.fail, self._lost("the connection was reset"))
        if self._call is not None:
            self._network.loop.later((1.0 - how) * _RESET_S_MAX, self._call.cancel)

    def _lost(self, reason: str) -> Lost:
        return connection_lost(self._listener.address, reason)


class _IncomingHere:
    """The server's end, an `Incoming`."""

    def __init__(self, stream: StreamHere, up: _Pipe, metadata: Metadata, timeout_s: float | None) -> None:
        self.metadata = metadata
        self.timeout_s = timeout_s
        self._stream = stream
        self._up = up

    async def receive(self) -> bytes | None:
        return await self._stream.received(self._up)

    async def send(self, message: bytes) -> None:
        await self._stream.answer(message)


def _nothing() -> None:
    pass
