"""Connections that fail now and then, by a seed: what a network does that nobody has in front of him."""

from __future__ import annotations

from random import Random

from dougong.errors import Unavailable
from dougong.rpc import Connection, Endpoint, GrpcTransport, Listener, Lost, Metadata, Stream

__all__ = ["UnsteadyTransport"]


class UnsteadyTransport:
    """gRPC, except that `share` of the attempts to connect or to open a stream come to nothing."""

    def __init__(self, share: float, random: Random) -> None:
        self._grpc = GrpcTransport()
        self._share = share
        self._random = random

    async def listen(self, address: str, endpoint: Endpoint) -> Listener:
        return await self._grpc.listen(address, endpoint)

    def connect(self, address: str) -> Connection:
        return _Unsteady(self._grpc.connect(address), self._share, self._random)


class _Unsteady:
    def __init__(self, connection: Connection, share: float, random: Random) -> None:
        self._connection = connection
        self._share = share
        self._random = random

    async def unary(self, path: str, request: bytes, metadata: Metadata, timeout_s: float | None) -> bytes:
        return await self._connection.unary(path, request, metadata, timeout_s)

    async def stream(self, path: str, metadata: Metadata, timeout_s: float | None) -> Stream:
        self._perhaps_fail()
        return await self._connection.stream(path, metadata, timeout_s)

    async def check(self, timeout_s: float) -> None:
        self._perhaps_fail()
        check = getattr(self._connection, "check", None)
        if check is not None:
            await check(timeout_s)

    async def close(self) -> None:
        await self._connection.close()

    def _perhaps_fail(self) -> None:
        if self._random.random() < self._share:
            raise Lost(Unavailable("the network lost it", code="connect_failed"), started=False)
