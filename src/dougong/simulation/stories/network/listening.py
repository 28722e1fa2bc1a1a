"""What stands between a client and the rest of the world, and writes down what goes through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from dougong.contract import batch_codec, codec, describe
from dougong.errors import Error
from dougong.registry import Change, Listing
from dougong.rpc import Connection, Endpoint, Listener, Lost, Metadata, Stream, Transport
from dougong.simulation.node import Process
from dougong.simulation.stories.network.judging import FRAME_S, Heard
from dougong.simulation.stories.network.place import RemoteRegistry
from dougong.simulation.stories.network.retries import Retries
from dougong.simulation.stories.network.serving import HEALTH_PATH, Asked, Till
from dougong.simulation.stories.network.without import lost_without

__all__ = ["HeardRegistry", "Listening", "NetworkProbe"]

_NUMBER = codec(Asked).decode
_FRAMES = {method.batch_path: batch_codec(method) for method in describe(Till).methods if method.max_batch}
_QUESTION = codec(Asked).encode(Asked())


class HeardRegistry(RemoteRegistry):
    """The registry, overheard."""

    def __init__(self, process: Process, heard: Heard) -> None:
        super().__init__(process)
        self._heard = heard

    async def list(self, prefix: str) -> Listing:
        listing = await super().list(prefix)
        self._heard.listed(prefix, listing)
        return listing

    async def watch(self, prefix: str, from_revision: int) -> AsyncIterator[Sequence[Change]]:
        async for changes in super().watch(prefix, from_revision):
            self._heard.changed(prefix, changes)
            yield changes


class NetworkProbe:
    """A `Probe`: one question over a connection of its own."""

    def __init__(self, process: Process, heard: Heard) -> None:
        self._process = process
        self._heard = heard

    async def probe(self, address: str) -> bool:
        alive = False
        try:
            connection = self._process.transport.connect(address)
            await connection.unary(HEALTH_PATH, _QUESTION, Metadata(), 0.49)
            alive = True
        except (Error, Lost):
            pass
        self._heard.probed(address, alive)
        return alive


class Listening:
    """A `Transport`: calls are judged as they go out."""

    def __init__(
        self, inner: Transport, heard: Heard, retries: Retries, ejected: Callable[[str], bool], without: str
    ) -> None:
        """`ejected` tells whether policy has a host get no calls."""
        self._inner = inner
        self.ejected = ejected
        self.heard = heard
        self.retries = retries
        self.without = without

    async def listen(self, address: str, endpoint: Endpoint) -> Listener:
        return await self._inner.listen(address, endpoint)

    def connect(self, address: str) -> Connection:
        return _Connection(self, self._inner.connect(address), address)


class _Connection:
    def __init__(self, listening: Listening, inner: Connection, address: str) -> None:
        self._listening = listening
        self._inner = inner
        self._address = address

    async def unary(self, path: str, request: bytes, metadata: Metadata, timeout_s: float | None) -> bytes:
        listening, number = self._listening, _NUMBER(request).number
        listening.heard.sends(self._address)
        if listening.ejected(self._address):
            listening.heard.wrong(f"called {self._address}, which is ejected")
        listening.retries.sent(number)
        lost: Lost | None = None
        try:
            return await self._inner.unary(path, request, metadata, timeout_s)
        except Lost as error:
            lost = error
            listening.heard.failed(self._address)
            raise lost_without(listening.without, lost) from None
        finally:
            listening.retries.ended(number, lost)

    async def stream(self, path: str, metadata: Metadata, timeout_s: float | None) -> Stream:
        try:
            stream = await self._inner.stream(path, metadata, timeout_s)
        except Lost:
            self._listening.heard.failed(self._address)
            raise
        return _Stream(self._listening, stream, self._address, path)

    async def close(self) -> None:
        await self._inner.close()


class _Stream:
    def __init__(self, listening: Listening, inner: Stream, address: str, path: str) -> None:
        self._listening = listening
        self._inner = inner
        self._address = address
        self._frames = _FRAMES[path]

    async def send(self, message: bytes) -> None:
        self._listening.heard.sends(self._address, grace_s=FRAME_S)
        await self._inner.send(message)

    async def finish(self) -> None:
        await self._inner.finish()

    async def receive(self) -> bytes | None:
        try:
            return await self._inner.receive()
        except Lost as lost:
            self._listening.heard.failed(self._address)
            raise lost_without(self._listening.without, lost) from None

    def cancel(self) -> None:
        self._inner.cancel()
