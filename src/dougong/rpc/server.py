"""The server: service objects in, an address out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dougong.contract import Service, describe
from dougong.errors import Conflict
from dougong.rpc._load import Load
from dougong.rpc._serve import routes_of
from dougong.rpc._transport import Listener, Route, Transport
from dougong.rpc.authorize import Authenticator
from dougong.rpc.batcher import Batcher
from dougong.rpc.grpc_aio import GrpcTransport

__all__ = ["Server"]

_CLOSING_S = 0.5
_SETTLED_S = 0.05
"""Without a call for so long, nobody is believed to be on the way."""


class Server:
    """Serves service objects on one address; health checks and reflection come with it.

    - `authenticator`: from an Authorization header to a caller. Without one only public methods can be reached.
    - `max_message_bytes`: longer messages are refused, in both directions.
    - `max_in_flight`: requests (items of batches counted) at work at once; more are answered `Overloaded`.
    - `frames_per_stream`: frames of one batch stream at work at once; then the stream is not read.

    It does not start or stop the services themselves: whoever built them does.
    """

    def __init__(
        self,
        services: Sequence[Service],
        *,
        authenticator: Authenticator | None = None,
        transport: Transport | None = None,
        max_message_bytes: int = 16 * 1024 * 1024,
        max_in_flight: int = 20_000,
        frames_per_stream: int = 16,
    ) -> None:
        self._transport = transport if transport is not None else GrpcTransport()
        self._load = Load(max_in_flight)
        self._batchers: list[Batcher[Any, Any]] = []
        self._listener: Listener | None = None
        routes: dict[str, Route] = {}
        names: list[str] = []
        for service in services:
            contract = describe(type(service))
            if contract.name in names:
                raise Conflict(f"two services are called {contract.name}", code="duplicate_service")
            names.append(contract.name)
            routes |= routes_of(
                service,
                contract.methods,
                authenticator,
                self._load,
                frames_per_stream=frames_per_stream,
                max_message_bytes=max_message_bytes,
                batchers=self._batchers,
            )
        self._endpoint = _Endpoint(routes, tuple(type(service) for service in services), max_message_bytes)

    @property
    def address(self) -> str:
        """`host:port`, once started."""
        if self._listener is None:
            raise Conflict("the server has no address before it is started", code="not_started")
        return self._listener.address

    @property
    def in_flight(self) -> int:
        """Requests at work now."""
        return self._load.in_flight

    async def start(self, address: str = "127.0.0.1:0") -> str:
        """Listen; the address with the real port. Raises `Unavailable` (`address_taken`)."""
        self._listener = await self._transport.listen(address, self._endpoint)
        return self._listener.address

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing new, let what runs end; whether all of it did within `timeout_s`.

        Clients are told to go elsewhere, in a way that lets them repeat what was not begun. Call `stop` afterwards.
        """
        if self._listener is not None:
            await self._listener.set_serving(False)
        self._load.drain()
        if not await self._wait(self._load.idle, timeout_s):
            return False
        # Clients close their streams when told to; those that do not know how are not waited for.
        end = asyncio.get_running_loop().time() + min(timeout_s, _CLOSING_S)
        await self._wait(self._load.quiet, min(timeout_s, _CLOSING_S))
        # What was sent before its client knew is still to be turned away: a port that closed before it came would leave
        # its outcome unknown.
        seen = -1
        while seen != self._load.turned_away and asyncio.get_running_loop().time() < end:
            seen = self._load.turned_away
            await asyncio.sleep(_SETTLED_S)
        return True

    async def _wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        event = asyncio.Event()
        self._load.when(condition, event.set)
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self, grace_s: float = 0.2) -> None:
        """Close the port; what still runs has `grace_s` to end and is then cancelled."""
        self._load.drain()
        if self._listener is not None:
            await self._listener.stop(grace_s)
        for batcher in self._batchers:
            await batcher.close()


class _Endpoint:
    def __init__(self, routes: Mapping[str, Route], types: tuple[type[Service], ...], max_message_bytes: int) -> None:
        self._routes = routes
        self._types = types
        self._max_message_bytes = max_message_bytes

    @property
    def routes(self) -> Mapping[str, Route]:
        return self._routes

    @property
    def service_types(self) -> tuple[type[Service], ...]:
        return self._types

    @property
    def max_message_bytes(self) -> int:
        return self._max_message_bytes
