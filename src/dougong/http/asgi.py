"""The part of ASGI we speak, as types. The messages are plain dicts; `HttpScope` names the keys we read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import NamedTuple, NotRequired, TypedDict

__all__ = [
    "API_HEADERS",
    "COMMON_HEADERS",
    "AsgiApp",
    "Event",
    "Headers",
    "HttpScope",
    "Receive",
    "Reply",
    "Scope",
    "Send",
]

Event = MutableMapping[str, object]
Scope = MutableMapping[str, object]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

Headers = Mapping[bytes, bytes]
"""Request headers by lower-case name. A header that came twice has its last value; see `front` for who minds."""


class HttpScope(TypedDict):
    """Keys of an HTTP scope that we use."""

    method: str
    path: str
    raw_path: NotRequired[bytes | None]
    query_string: bytes
    headers: list[tuple[bytes, bytes]]
    client: NotRequired[tuple[str, int] | None]


# What a response must not allow a browser to do with it. HTML pages bring their own, wider policy.
COMMON_HEADERS: list[tuple[bytes, bytes]] = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
API_HEADERS: list[tuple[bytes, bytes]] = [
    *COMMON_HEADERS,
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
]


class Reply(NamedTuple):
    """A whole response, ready to be sent."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    common: list[tuple[bytes, bytes]] = API_HEADERS
    """Headers every response of its kind has."""
