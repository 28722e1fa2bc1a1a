"""The part of ASGI we speak, as types. The messages are plain dicts; `HttpScope` names the keys we read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import NamedTuple, TypedDict

__all__ = ["AsgiApp", "Event", "Headers", "HttpScope", "Receive", "Reply", "Scope", "Send"]

Event = MutableMapping[str, object]
Scope = MutableMapping[str, object]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

Headers = Mapping[bytes, bytes]
"""Request headers by lower-case name. A header that came twice has its last value; see `front` for who minds."""


class HttpScope(TypedDict, total=False):
    """Keys of an HTTP scope that we use."""

    method: str
    path: str
    raw_path: bytes
    query_string: bytes
    headers: list[tuple[bytes, bytes]]


class Reply(NamedTuple):
    """A whole response, ready to be sent."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
