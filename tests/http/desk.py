"""A small service with one method per way of mapping a request, and a way to call a front without a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from dougong.contract import Header, Message, Service, Subject, batched, rpc
from dougong.errors import Conflict, Error, Internal, NotFound, Overloaded, Unauthenticated, Unavailable
from dougong.http import AsgiApp, HttpFront
from dougong.rpc import Caller, current_caller, remaining_s

TOKENS = {
    "Bearer alice": Caller("alice"),
    "Bearer clerk": Caller("clerk-1", ("clerk",)),
    "Bearer system": Caller("edge", (), system=True),
}


def authenticate(authorization: str) -> Caller:
    if not authorization:
        raise Unauthenticated("send a token", code="token_missing")
    caller = TOKENS.get(authorization)
    if caller is None:
        raise Unauthenticated("the token is no good", code="token_invalid")
    return caller


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Line(Message):
    sku: Annotated[str, Meta(min_length=1, max_length=8)]
    quantity: Annotated[int, Meta(ge=1, le=100)]


class Place(Message):
    user_id: Subject = ""
    lines: Annotated[list[Line], Meta(min_length=1, max_length=3)]
    key: Annotated[str, Meta(max_length=10), Header("Idempotency-Key")] = ""


class Placed(Message):
    user_id: str
    key: str
    total: int


class Find(Message):
    owner: Subject
    limit: Annotated[int, Meta(ge=1, le=50)] = 10
    colour: Colour | None = None
    tags: list[str] = msgspec.field(default_factory=list)
    exact: bool = False


class Found(Message):
    owner: str
    limit: int
    colour: Colour | None
    tags: list[str]
    exact: bool


class ById(Message):
    id: Annotated[str, Meta(max_length=20)]


class Numbered(Message):
    number: Annotated[int, Meta(ge=0)]
    note: str = ""


class Big(Message):
    any_number: int
    deeper: list[Big] = msgspec.field(default_factory=list)
    extra: dict[str, int] = msgspec.field(default_factory=dict)


class Nothing(Message):
    pass


class Wait(Message):
    seconds: float = 0.0
    how: str = ""


class Tick(Message):
    n: int


class Count(Message):
    up_to: Annotated[int, Meta(ge=0, le=10_000)] = 3
    fail_at: int = -1
    pause_s: float = 0.0


class Desk(Service, package="test.v1"):
    """One method per way of mapping a request."""

    def __init__(self) -> None:
        self.placed: list[Place] = []
        self.entered = asyncio.Event()
        self.cancelled = 0
        self.streams_closed = 0

    @batched(http="POST /v1/orders", max_batch=10)
    async def place(self, requests: Sequence[Place]) -> Sequence[Placed | Error]:
        """Place an order."""
        self.placed += requests
        return [Placed(user_id=r.user_id, key=r.key, total=sum(i.quantity for i in r.lines)) for r in requests]

    @rpc(http="GET /v1/things", on_behalf=["clerk"])
    async def find(self, request: Find) -> Found:
        """Everything from the query."""
        return Found(
            owner=request.owner,
            limit=request.limit,
            colour=request.colour,
            tags=request.tags,
            exact=request.exact,
        )

    @rpc(http="GET /v1/things/{id}", public=True)
    async def get(self, request: ById) -> ById:
        """From the path."""
        return request

    @rpc(http="GET /v1/things/mine", public=True)
    async def mine(self, request: Nothing) -> ById:
        """A literal beside a parameter."""
        caller = current_caller()
        return ById(id=caller.subject if caller is not None else "nobody")

    @rpc(http="PUT /v1/things/{number}", public=True)
    async def put(self, request: Numbered) -> Numbered:
        """Path and body together."""
        return request

    @rpc(http="POST /v1/things/{id}:paint", public=True)
    async def paint(self, request: ById) -> ById:
        """A verb behind the id."""
        return request

    @rpc(http="POST /v1/big", public=True)
    async def big(self, request: Big) -> Big:
        """Numbers without bounds, and a message in itself."""
        return request

    @rpc(http="DELETE /v1/all", roles=["clerk"])
    async def clear(self, request: Nothing) -> Nothing:
        """Clerks only."""
        return request

    @rpc(http="POST /v1/internal", internal=True)
    async def inside(self, request: Nothing) -> Nothing:
        """Never over HTTP."""
        return request

    @rpc(http="POST /v1/wait", public=True, timeout_s=5.0)
    async def wait(self, request: Wait) -> Wait:
        """Takes a while, or fails in the way asked for."""
        self.entered.set()
        match request.how:
            case "crash":
                raise RuntimeError("the password is hunter2")
            case "internal":
                raise Internal("select * from secrets", code="db_broken", table="secrets")
            case "conflict":
                raise Conflict("somebody was faster", code="too_late", order=7)
            case "missing":
                raise NotFound("no such order", code="order_not_found", order_id="o-1")
            case "overloaded":
                raise Overloaded("back off", code="queue_full", retry_after_s=2.5)
            case "unavailable":
                raise Unavailable("gone", code="gone")
            case "timeout":
                raise TimeoutError("some inner timeout")
            case "remaining":
                return Wait(seconds=remaining_s() or -1.0)
            case _:
                pass
        try:
            await asyncio.sleep(request.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return request

    @rpc(http="GET /v1/count", public=True, timeout_s=5.0)
    async def count(self, request: Count) -> AsyncIterator[Tick]:
        """A stream."""
        try:
            for n in range(request.up_to):
                if n == request.fail_at:
                    raise Conflict("stumbled", code="stumbled", at=n)
                yield Tick(n=n)
                await asyncio.sleep(request.pause_s)
            if request.fail_at == request.up_to:
                raise RuntimeError("at the end")
        finally:
            self.streams_closed += 1


class Response:
    """What came back over ASGI."""

    def __init__(self, events: list[dict[str, object]]) -> None:
        start = events[0]
        self.status = start["status"]
        self.pairs = [(n.decode(), v.decode()) for n, v in start["headers"]]  # type: ignore[attr-defined]
        self.headers = dict(self.pairs)
        self.body = b"".join(e["body"] for e in events[1:])  # type: ignore[misc]
        self.complete = not events[-1].get("more_body", False)

    @property
    def json(self) -> dict[str, object]:
        value: dict[str, object] = json.loads(self.body)
        return value


async def ask(
    app: AsgiApp,
    verb: str,
    target: str,
    body: object = None,
    *,
    token: str = "alice",
    headers: Sequence[tuple[str, str | bytes]] = (),
    chunks: Sequence[bytes] | None = None,
) -> Response:
    """One request straight to the ASGI app. A `body` that is not bytes is sent as JSON."""
    path, _, query = target.partition("?")
    pairs = [(n.lower().encode(), v.encode() if isinstance(v, str) else v) for n, v in headers]
    names = {n for n, _ in pairs}
    if token:
        pairs.append((b"authorization", f"Bearer {token}".encode()))
    content = b""
    if body is not None:
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    if (body is not None or chunks is not None) and b"content-type" not in names:
        pairs.append((b"content-type", b"application/json"))
    if chunks is not None:
        pairs.append((b"transfer-encoding", b"chunked"))
    elif body is not None and b"content-length" not in names:
        pairs.append((b"content-length", str(len(content)).encode()))
    pieces = list(chunks) if chunks is not None else [content]
    events: list[dict[str, object]] = []
    gone = asyncio.Event()

    async def receive() -> dict[str, object]:
        if pieces:
            piece = pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(pieces)}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(event: dict[str, object]) -> None:
        events.append(event)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": verb,
        "path": path,
        "raw_path": path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "headers": pairs,
    }
    await app(scope, receive, send)  # type: ignore[arg-type]
    return Response(events)


def front(desk: Desk | None = None, **options: object) -> HttpFront:
    """A front for one desk."""
    return HttpFront([(Desk, desk or Desk())], authenticator=authenticate, **options)  # type: ignore[arg-type]
