"""The HTTP server inside our own event loop: uvicorn's httptools protocol, our start and stop.

Chosen by measurement (docs/decisions/0003-http-server.md). What uvicorn leaves open is closed here: the size of a
request's head and the time it may take, the number of connections, and errors in our own format.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import cast

import uvicorn

from dougong.errors import Invalid, Unavailable
from dougong.http.asgi import COMMON_HEADERS, AsgiApp, Receive, Scope, Send
from dougong.http.exchange import RequestIds
from dougong.http.problem import problem
from dougong.http.protocol import Limits, guarded_protocol
from dougong.telemetry import get_logger

__all__ = ["HttpServer"]

_TICK_S = 0.5
_CANCEL_S = 2.0
_POLL_S = 0.01
_log = get_logger("dougong.http")


class HttpServer:
    """Serves an ASGI app on one address, from `start` to `stop`, in the running event loop.

    No signal handlers, no process of its own: the app's owner decides when it ends. Bounds: `max_connections` at once
    (more are told to come back later), `max_head_bytes` and `head_timeout_s` for a request's head, `idle_s` for a
    connection between requests.
    """

    def __init__(
        self,
        asgi: AsgiApp,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        max_connections: int = 10_000,
        max_head_bytes: int = 32 * 1024,
        head_timeout_s: float = 10.0,
        idle_s: float = 75.0,
        backlog: int = 2048,
    ) -> None:
        self._asgi = asgi
        self._host = host
        self._port = port
        self._limits = Limits(max_connections, max_head_bytes, head_timeout_s)
        self._request_ids = RequestIds()
        self._idle_s = idle_s
        self._backlog = backlog
        self._server: uvicorn.Server | None = None
        self._listener: socket.socket | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> int:
        """Bind and listen; the port. Raises `Unavailable` (`port_taken`) or `Invalid` (`bad_address`), naming it."""
        if self._server is not None:
            raise RuntimeError("this server was started already")
        listener = self._bind()
        config = uvicorn.Config(
            self._guarded,  # pyright: ignore[reportArgumentType]
            http=guarded_protocol(self._limits, self._request_ids),
            ws="none",
            lifespan="off",
            interface="asgi3",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=cast(int, self._idle_s),
            backlog=self._backlog,
            reset_contextvars=True,  # else every request would be a child of whoever called start()
        )
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.on_tick(0)  # sets the Date header
        await server.startup(sockets=[listener])
        self._server = server
        self._listener = listener
        self._ticker = asyncio.create_task(_tick(server), name="http-date")
        port = cast(int, listener.getsockname()[1])
        _log.debug("http listening", host=self._host, port=port)
        return port

    async def stop(self, grace_s: float = 10.0) -> None:
        """Close the listener, let requests in progress finish for `grace_s`, answer the rest with 503; once."""
        server, listener, ticker = self._server, self._listener, self._ticker
        if server is None or listener is None or ticker is None:
            return
        self._server = self._listener = self._ticker = None
        self._stopping = True
        state = server.server_state
        try:
            for listening in server.servers:
                listening.close()
            listener.close()
            for connection in tuple(state.connections):
                connection.shutdown()  # idle ones close now, busy ones after their response
            loop = asyncio.get_running_loop()
            end = loop.time() + grace_s
            # uvicorn's sets have no event to wait for, and stopping is rare.
            while (state.connections or state.tasks) and loop.time() < end:  # noqa: ASYNC110
                await asyncio.sleep(_POLL_S)
        finally:
            ticker.cancel()
            for task in tuple(state.tasks):
                task.cancel()
            await asyncio.wait({ticker, *state.tasks}, timeout=_CANCEL_S)
            await asyncio.sleep(0)  # what the cut-off requests answered goes out
            for connection in tuple(state.connections):
                connection.transport.close()
        _log.debug("http stopped", host=self._host, port=self._port)

    def _bind(self) -> socket.socket:
        if not 0 <= self._port <= 65535:  # getaddrinfo would quietly take the low 16 bits
            raise Invalid(f"{self._port} is no port: it must be from 0 to 65535", code="bad_address")
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICHOST
            )[0]
        except (socket.gaierror, UnicodeError) as error:
            raise Invalid(
                f"{self._host}:{self._port} is no address to listen on: {error}", code="bad_address"
            ) from error
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE:
                raise Unavailable(
                    f"{self._host}:{self._port} is taken by another process; stop it or choose another port",
                    code="port_taken",
                    host=self._host,
                    port=self._port,
                ) from error
            raise Invalid(
                f"cannot listen on {self._host}:{self._port}: {error.strerror}", code="bad_address"
            ) from error
        return listener

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The app; what `stop` has to cut off gets an answer instead of a broken connection."""
        try:
            await self._asgi(scope, receive, send)
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            error = Unavailable("the server is stopping; what the request did is unknown", code="stopping")
            status, headers, body = problem(error, request_id=self._request_ids(None))
            headers += [(b"content-length", b"%d" % len(body)), (b"connection", b"close"), *COMMON_HEADERS]
            # The head is out already: uvicorn refuses a second one and closes the connection.
            with contextlib.suppress(RuntimeError):
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await send({"type": "http.response.body", "body": body})


async def _tick(server: uvicorn.Server) -> None:
    """Keep the Date header right."""
    while True:
        await asyncio.sleep(_TICK_S)
        await server.on_tick(0)
