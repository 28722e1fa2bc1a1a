"""One request and what is known about it while it is answered."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from itertools import count

from dougong.errors import Error, Invalid
from dougong.http.asgi import API_HEADERS, Headers, HttpScope, Receive, Reply, Send
from dougong.telemetry import Span

__all__ = ["UNMATCHED", "Exchange", "RequestIds", "single_headers"]

UNMATCHED = "-"
"""Route label of requests that no route matched: metrics must not grow with what strangers type."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._\-]{0,63}")


class RequestIds:
    """A caller's own request id if it is short and plain (it goes into logs and headers), else a new one."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6)
        self._count = count(1)

    def __call__(self, given: bytes | None) -> str:
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given.decode("ascii")
        return f"{self._prefix}-{next(self._count):x}"


class Exchange:
    """Request, reply and the labels under which they are counted."""

    __slots__ = (
        "error",
        "extra",
        "headers",
        "receive",
        "request_id",
        "scope",
        "send",
        "span",
        "status",
        "template",
        "verb",
    )

    def __init__(
        self, scope: HttpScope, receive: Receive, send: Send, headers: Headers, request_id: str, span: Span
    ) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.headers = headers
        self.request_id = request_id
        self.span = span
        self.verb = scope["method"]
        self.template = UNMATCHED
        self.status = 0
        """Set once the response's head was sent."""
        self.error: Error | None = None
        """Why the reply is a problem, if it is one."""
        self.extra: Sequence[tuple[bytes, bytes]] = ()
        """Headers for whatever the reply turns out to be, e.g. CORS."""

    async def reply(self, reply: Reply, *, more: bool = False) -> None:
        """Send all of it; with `more` leave it to the caller to end it."""
        status, headers, body, common = reply
        head = [*headers, (b"x-request-id", self.request_id.encode("ascii")), *common, *self.extra]
        if status not in {204, 304}:
            head.append((b"content-length", b"%d" % len(body)))
        self.status = status
        await self.send({"type": "http.response.start", "status": status, "headers": head})
        if self.verb == "HEAD":
            body = b""
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def start(self, kind: bytes) -> None:
        """Send the head of a good answer whose length is not known yet."""
        head = [
            (b"content-type", kind),
            (b"x-request-id", self.request_id.encode("ascii")),
            *API_HEADERS,
            *self.extra,
        ]
        self.status = 200
        await self.send({"type": "http.response.start", "status": 200, "headers": head})

    async def body(self, body: bytes, *, more: bool = False) -> None:
        """Send a piece of the body."""
        await self.send({"type": "http.response.body", "body": body, "more_body": more})


def single_headers(pairs: Sequence[tuple[bytes, bytes]], headers: Headers, once: frozenset[bytes]) -> None:
    """Refuse headers that came twice and mean something: which one counts must not be a matter of luck."""
    if len(headers) == len(pairs):
        return
    seen: set[bytes] = set()
    for name, _ in pairs:
        if name in seen and name in once:
            shown = name.decode("latin-1")
            raise Invalid(
                f"the header {shown} was sent twice",
                code="duplicate_header",
                field=shown,
                reason="sent twice",
                source="header",
            )
        seen.add(name)
