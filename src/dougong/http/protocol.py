"""uvicorn's protocol with the bounds it lacks: bytes and time for a request's head, and how many connections."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from dougong.errors import Error, Invalid, Overloaded
from dougong.http.asgi import COMMON_HEADERS
from dougong.http.problem import HeadersTooLarge, problem

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Limits", "guarded_protocol"]

LINGER_S = 1.0
LINGERING_MAX = 100


class Limits(NamedTuple):
    """What one client may take."""

    max_connections: int
    max_head_bytes: int
    head_timeout_s: float


def guarded_protocol(limits: Limits, new_request_id: Callable[[bytes | None], str]) -> type[asyncio.Protocol]:
    """A protocol class with these limits built in; uvicorn makes one object of it per connection."""

    class Guarded(HttpToolsProtocol):
        def __init__(
            self,
            config: uvicorn.Config,
            server_state: ServerState,
            app_state: dict[str, Any],
            _loop: asyncio.AbstractEventLoop | None = None,
        ) -> None:
            super().__init__(config, server_state, app_state, _loop)
            self._in_head = True
            self._head_bytes = 0
            self._head_timer: asyncio.TimerHandle | None = None
            self._refused = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.max_connections:
                error = Overloaded(
                    f"{limits.max_connections} connections are open already", code="too_many_connections"
                )
                self._refuse(error)
                return
            self._arm()

        def data_received(self, data: bytes) -> None:
            if self._refused or self.transport.is_closing():
                return
            super().data_received(data)
            if self._in_head and not self._refused and not self.transport.is_closing():
                self._head_bytes += len(data)
                if self._head_bytes > limits.max_head_bytes:
                    error = HeadersTooLarge(
                        f"the request line and headers have more than {limits.max_head_bytes} bytes",
                        code="head_too_large",
                        max_bytes=limits.max_head_bytes,
                    )
                    self._refuse(error)
                elif self._head_timer is None:  # the first piece of a later request on this connection
                    self._arm()

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            super().connection_lost(exc)

        # Parser callbacks.

        def on_message_begin(self) -> None:
            self._in_head = True
            self._head_bytes = 0
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._in_head = False
            if self._head_timer is not None:
                self._disarm()
            super().on_headers_complete()

        def send_400_response(self, msg: str) -> None:
            self._refuse(Invalid(msg, code="malformed_http"))

        def _unsupported_upgrade_warning(self) -> None:
            """Strangers ask for h2c and WebSockets; RFC 9110 has us ignore that, and it is worth no line in the log."""

        def _arm(self) -> None:
            self._head_timer = self.loop.call_later(limits.head_timeout_s, self._head_late)

        def _disarm(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _head_late(self) -> None:
            """No answer: whoever sends half a head, or nothing, for so long does not listen either."""
            if self._in_head and not self.transport.is_closing():
                self.transport.close()

        def _refuse(self, error: Error) -> None:
            """Answer without the application and hang up, but listen on for a moment: closing on unread bytes resets
            the connection, and the client might never see why."""
            self._disarm()
            self._refused = True
            cycle = cast("RequestResponseCycle | None", self.cycle)  # None before the first request
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True  # the application hears that nobody waits for its answer any more
                cycle.message_event.set()
                if cycle.response_started:  # half of one response followed by another: nobody could tell them apart
                    self.transport.close()
                    return
            status, headers, body = problem(error, request_id=new_request_id(None))
            content = [STATUS_LINE[status]]
            for name, value in (*self.server_state.default_headers, *headers, *COMMON_HEADERS):
                if name != b"connection":
                    content += (name, b": ", value, b"\r\n")
            content.append(b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body))
            content.append(body)
            self.transport.write(b"".join(content))
            if len(self.connections) > limits.max_connections + LINGERING_MAX:
                self.transport.close()
                return
            self.transport.write_eof()
            self._head_timer = self.loop.call_later(LINGER_S, self.transport.close)

    return Guarded
