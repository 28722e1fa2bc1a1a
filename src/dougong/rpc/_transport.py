"""The seam between typed calls and whatever carries bytes: gRPC between processes, memory inside one.

Everything above works on encoded messages and on these few shapes, so that a simulator can put its own network
underneath: grpc.aio owns threads and cannot run in virtual time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec

from dougong.contract import Service
from dougong.errors import Error, Unavailable

__all__ = ["Connection", "Endpoint", "Incoming", "Listener", "Lost", "Metadata", "Route", "Stream", "Transport"]


class Metadata(msgspec.Struct, frozen=True):
    """What travels beside a message."""

    authorization: str = ""
    traceparent: str = ""
    origin: str = ""
    baggage: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    """Of a client's route, for whoever looks at them on the way; lower case, sorted. Servers here do not."""


class Lost(Exception):
    """The call did not get an answer from the other side: the transport failed, or the server turned it away.

    `started` False means the other side surely did nothing, so that any instance may be tried. An `Error` raised by the
    method itself is never wrapped: that *is* the answer.
    """

    def __init__(self, error: Error, *, started: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.started = started


def connect_failed(address: str, reason: str) -> Lost:
    return Lost(
        Unavailable(f"no connection to {address}: {reason}", code="connect_failed", address=address), started=False
    )


def connection_lost(address: str, reason: str) -> Lost:
    return Lost(
        Unavailable(
            f"connection to {address} broke before the answer came ({reason}): outcome unknown",
            code="connection_lost",
            address=address,
        ),
        started=True,
    )


class Stream(Protocol):
    """One bidirectional stream of encoded messages, seen from the client."""

    async def send(self, message: bytes) -> None:
        """Returns when there is room for more; that is the back-pressure. One sender at a time. Raises `Lost`."""

    async def finish(self) -> None:
        """Nothing more will be sent."""

    async def receive(self) -> bytes | None:
        """The next message; None at the regular end. Raises the method's `Error`, or `Lost`."""

    def cancel(self) -> None:
        """Give up the call; the server's side is cancelled too."""


class Connection(Protocol):
    """A way to one instance. Connects when first used, and again after a loss."""

    async def unary(self, path: str, request: bytes, metadata: Metadata, timeout_s: float | None) -> bytes:
        """One request, one response. Raises the method's `Error`, `DeadlineExceeded`, or `Lost`."""

    async def stream(self, path: str, metadata: Metadata, timeout_s: float | None) -> Stream:
        """Open a stream on an established connection. Raises `Lost` (not started) when there is none to be had."""

    async def close(self) -> None:
        """Break off what is in flight and let go."""


class Incoming(Protocol):
    """One stream, seen from the server."""

    metadata: Metadata
    timeout_s: float | None
    """What the client still gives it, at the time of arrival."""

    async def receive(self) -> bytes | None:
        """The next message; None when the client has sent its last."""

    async def send(self, message: bytes) -> None:
        """Returns when there is room for more. One sender at a time."""


UnaryHandler = Callable[[bytes, Metadata, "float | None"], Awaitable[bytes]]
StreamHandler = Callable[[Incoming], Awaitable[None]]


class Route(msgspec.Struct, frozen=True):
    """How one path is served: one of the two is set. Both raise `Error` (the answer) or `Lost` (turned away)."""

    unary: UnaryHandler | None = None
    stream: StreamHandler | None = None


class Endpoint(Protocol):
    """What a server hands to a transport to be reached under."""

    @property
    def routes(self) -> Mapping[str, Route]:
        """By path, `/shop.v1.Orders/Place`."""

    @property
    def service_types(self) -> tuple[type[Service], ...]:
        """What is served, for health checks and reflection."""

    @property
    def max_message_bytes(self) -> int:
        """Longer messages are refused in both directions."""


class Listener(Protocol):
    """An endpoint that can be reached."""

    @property
    def address(self) -> str:
        """`host:port`, with the port that was really taken."""

    async def set_serving(self, serving: bool) -> None:
        """What health checks are told."""

    async def stop(self, grace_s: float) -> None:
        """Take nothing new, give what runs `grace_s` to end, then break it off."""


class Transport(Protocol):
    """Carries bytes between clients and endpoints."""

    async def listen(self, address: str, endpoint: Endpoint) -> Listener:
        """Make an endpoint reachable. Port 0 takes a free one. Raises `Unavailable` (`address_taken`)."""

    def connect(self, address: str) -> Connection:
        """A connection, not yet established."""
