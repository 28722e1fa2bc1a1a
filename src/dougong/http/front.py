"""The ASGI application: every request goes through `HttpFront.__call__` to a service method or a built-in page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import cast

from dougong.clock import Clock, SystemClock
from dougong.contract import Message, Method, Service, describe
from dougong.errors import DeadlineExceeded, Invalid, Overloaded
from dougong.http.account import CLIENT_GONE, VERBS, Account
from dougong.http.address import Proxies
from dougong.http.asgi import COMMON_HEADERS, Event, HttpScope, Receive, Reply, Scope, Send
from dougong.http.binding import Binder
from dougong.http.body import ClientGone, check_head, drain_body, read_body
from dougong.http.cors import Cors
from dougong.http.docs import DocsPages
from dougong.http.exchange import Exchange, RequestIds, single_headers
from dougong.http.files import File, Files
from dougong.http.health import Check, Readiness
from dougong.http.problem import BodyTimeout, MethodNotAllowed, NoSuchRoute, TooLarge
from dougong.http.routing import PathTree
from dougong.http.stream import StreamOf, send_stream
from dougong.mesh import Colouring
from dougong.rpc import Authenticator, Caller, KeyRing, Origin, baggage, bind_subject, call_scope, identify
from dougong.telemetry import (
    PROMETHEUS_CONTENT_TYPE,
    continue_trace,
    gauge,
    render_prometheus,
    span,
)

__all__ = ["HttpFront"]

_ONCE = frozenset({b"authorization", b"content-type", b"content-length", b"content-encoding", b"x-request-timeout-ms"})
_JSON = [(b"content-type", b"application/json")]
# A rotation publishes a key 10 s before it is used: a copy must not be good for longer.
_JWKS = [(b"content-type", b"application/jwk-set+json"), (b"cache-control", b"public, max-age=5")]
_PROMPT_BYTES = 16 * 1024
_PROMPT_S = 0.01

_active = gauge("http_server_active_requests", "Requests being answered now.")

Page = Callable[[Exchange], Awaitable[Reply]]


class Route:
    """One service method as HTTP sees it, with everything worked out that does not depend on the request."""

    __slots__ = ("binder", "call", "method", "span_name", "stream")

    def __init__(self, method: Method, target: object) -> None:
        assert method.http is not None
        self.method = method
        self.binder = Binder(method)
        function = getattr(target, method.attribute)
        # Batched methods are called with one request, as `BoundBatched.__call__` allows; so are remote clients'.
        self.call = cast(Callable[[Message], Awaitable[Message]], function)
        self.stream: StreamOf | None = cast(StreamOf, function) if method.server_streaming else None
        self.span_name = f"{method.http.verb} {method.http.path}"


_PLAIN = nullcontext()


class HttpFront:
    """Serves methods of services, local objects or remote clients, as REST.

    `routes` are pairs of a service class and an object with its methods. Only methods with an `http` rule appear, and
    never internal ones. Beside them: `/healthz`, `/readyz` (runs `checks`), `/metrics`, `/openapi.json` and `/docs`.
    With `keys`, which are those that tokens are checked with, a JWK set of them at `/.well-known/jwks.json`.

    Bounds: a body has at most `max_body_bytes` and `body_timeout_s`; a call has its method's `timeout_s`, which the
    client may shorten by `X-Request-Timeout-Ms`; past `max_in_flight` requests at once callers are told to back off.

    `files` are answered at their paths (`/orders.html`), to everybody.

    With `colouring`, the headers it names and `baggage` travel on with the calls that a request causes.

    Methods learn the client's address by `current_origin()`, also behind proxies from `trusted_proxies` (networks).

    Raises TypeError for routes that cannot be served, naming the method.
    """

    def __init__(
        self,
        routes: Sequence[tuple[type[Service], Service]],
        *,
        authenticator: Authenticator | None = None,
        keys: KeyRing | None = None,
        title: str = "API",
        version: str = "0",
        servers: Sequence[str] = (),
        max_body_bytes: int = 1 << 20,
        body_timeout_s: float = 10.0,
        max_in_flight: int = 10_000,
        cors: Cors | None = None,
        trusted_proxies: Sequence[str] = (),
        colouring: Colouring | None = None,
        checks: Mapping[str, Check] | None = None,
        metrics: bool = True,
        docs: bool = True,
        files: Mapping[str, File] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._authenticator = authenticator
        self._max_body_bytes = max_body_bytes
        self._body_timeout_s = body_timeout_s
        self._max_in_flight = max_in_flight
        self._in_flight = 0
        self._cors = cors
        self._proxies = Proxies(trusted_proxies)
        self._colouring = colouring
        self._colours = (
            tuple(key.encode("latin-1") for key in (*colouring.keys, "baggage")) if colouring is not None else ()
        )
        self._clock = clock if clock is not None else SystemClock()
        self._readiness = Readiness(checks or {}, self._clock)
        self._request_ids = RequestIds()
        self._account = Account(self._clock)
        self._tree: PathTree[Route | Page] = PathTree()
        once = set(_ONCE)
        for service, target in routes:
            for method in describe(service).methods:
                if method.http is None or method.internal:
                    continue
                route = Route(method, target)
                once.update(route.binder.header_names)
                taken = self._tree.add(method.http.verb, method.http.path, route)
                if taken is not None:
                    other = taken.method.path if isinstance(taken, Route) else "a built-in page"
                    raise TypeError(f"{method.path} and {other} both want {route.span_name!r}; change one http rule")
        self._once = frozenset(once)
        pages: dict[str, Page] = {"/healthz": self._healthz, "/readyz": self._readyz}
        if metrics:
            pages["/metrics"] = self._metrics
        if keys is not None:
            self._keys = keys
            pages["/.well-known/jwks.json"] = self._jwks
        if docs:
            self._docs = DocsPages([service for service, _ in routes], title=title, version=version, servers=servers)
            pages.update(dict.fromkeys(self._docs.paths, self._page))
        self._files = Files(files or {})
        for path in files or {}:
            if path in pages:
                raise TypeError(f"the file {path!r} stands where this server answers itself; call it something else")
            pages[path] = self._file
        for path, page in pages.items():
            if self._tree.add("GET", path, page) is not None:
                raise TypeError(
                    f"a method's http rule takes {path!r}, which this server answers itself; change the rule"
                )

    def drain(self) -> None:
        """Answer `/readyz` with no from now on, so that nobody sends more; requests are still served."""
        self._readiness.drain()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        kind = scope["type"]
        if kind == "http":
            await self._http(cast(HttpScope, scope), receive, send)
        elif kind == "lifespan":
            await _lifespan(receive, send)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1003, "reason": "no WebSocket here"})

    async def _http(self, scope: HttpScope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        pairs = scope["headers"]
        headers = dict(pairs)
        current = span("HTTP")
        exchange = Exchange(scope, receive, send, headers, self._request_ids(headers.get(b"x-request-id")), current)
        if self._cors is not None:
            exchange.extra = self._cors.response_headers(headers)
        self._in_flight += 1
        try:
            parent = headers.get(b"traceparent")
            with nullcontext() if parent is None else continue_trace(parent.decode("latin-1")), current:
                try:
                    single_headers(pairs, headers, self._once)
                    reply = await self._answer(exchange)
                    if reply is not None:
                        await exchange.reply(reply)
                except ClientGone:
                    pass  # counted below as what it is
                except Exception as error:  # noqa: BLE001  (whatever a service raises is answered, and logged here)
                    await self._fail(exchange, error)
                current.attributes["http.response.status_code"] = exchange.status or CLIENT_GONE
                self._account.note(exchange, began, time.perf_counter())
        finally:
            self._in_flight -= 1

    async def _answer(self, exchange: Exchange) -> Reply | None:
        """The reply, or None when it was sent already."""
        if self._in_flight > self._max_in_flight:
            raise Overloaded(
                f"{self._max_in_flight} requests are being answered already",
                code="too_many_requests",
                retry_after_s=1.0,
            )
        scope = exchange.scope
        raw_path = scope.get("raw_path")
        match = self._tree.find(raw_path if raw_path is not None else scope["path"].encode("utf-8", "surrogateescape"))
        if match is None:
            raise NoSuchRoute("nothing is served at this path; /docs lists what is", code="no_such_path")
        exchange.template = match.template
        verb = scope["method"]
        route = match.verbs.get("GET" if verb == "HEAD" else verb)
        if route is None:
            allow = _allow(match.verbs)
            if verb == "OPTIONS":
                return Reply(204, [(b"allow", allow.encode("ascii")), *self._preflight(exchange, allow)], b"")
            raise MethodNotAllowed(verb if verb in VERBS else "this method", allow)
        if not isinstance(route, Route):
            exchange.span.name = f"GET {match.template}"
            return await route(exchange)
        if route.stream is not None and verb == "HEAD":  # its head depends on the first item
            raise MethodNotAllowed(verb, _allow(match.verbs))
        exchange.span.name = route.span_name
        return await self._call(route, match.values, exchange)

    async def _call(self, route: Route, values: Sequence[str], exchange: Exchange) -> Reply | None:
        method, binder, headers = route.method, route.binder, exchange.headers
        caller = self._identify(method, headers)
        timeout_s = _timeout_s(headers.get(b"x-request-timeout-ms"), method.timeout_s)
        size = check_head(headers, takes_body=binder.takes_body, max_bytes=self._max_body_bytes)
        # One timer, because arming it is a fifth of the whole cost of a request: for the body, which is mostly here
        # already, and then for the call. A small body that comes at once needs no second look at the clock's hands.
        loop = asyncio.get_running_loop()
        began = loop.time()
        body: bytes | None = None
        first_s = timeout_s
        if size == 0:
            body = b""
        elif size < 0 or size > _PROMPT_BYTES:
            first_s = self._body_timeout_s
        else:
            first_s = min(timeout_s, self._body_timeout_s)
        timer = asyncio.timeout_at(began + first_s)
        try:
            async with timer:
                if body is None:
                    body = await read_body(exchange.receive, max_bytes=self._max_body_bytes)
                    now = loop.time()
                    if now - began > _PROMPT_S or first_s != timeout_s:
                        timer.reschedule(now + timeout_s)
                request = bind_subject(
                    method, binder.bind(values, exchange.scope["query_string"], headers, body), caller
                )
                with (
                    call_scope(caller=caller, timeout_s=timeout_s, origin=self._origin(exchange.scope, caller)),
                    self._coloured(headers),
                ):
                    if route.stream is not None:
                        timer.reschedule(None)
                        await send_stream(exchange, route.stream(request), timeout_s, self._account.problem)
                        return None
                    response = await route.call(request)
        except TimeoutError as error:
            if not timer.expired():
                raise
            if body is None:
                raise BodyTimeout(
                    f"the body did not arrive within {first_s:g} s", code="body_timeout", timeout_s=first_s
                ) from error
            raise DeadlineExceeded(
                f"{method.service}.{method.name} did not answer within {timeout_s:g} s; what it did is unknown",
                code="deadline_exceeded",
                timeout_s=timeout_s,
            ) from error
        return Reply(200, _JSON, binder.encode(response))

    def _identify(self, method: Method, headers: Mapping[bytes, bytes]) -> Caller | None:
        authorization = headers.get(b"authorization")
        return identify(method, "" if authorization is None else authorization.decode("latin-1"), self._authenticator)

    def _origin(self, scope: HttpScope, caller: Caller | None) -> Origin:
        peer = scope.get("client")
        address = "" if peer is None else self._proxies.client(peer[0], scope["headers"])
        return Origin(address, "" if caller is None else caller.session)

    def _coloured(self, headers: Mapping[bytes, bytes]) -> AbstractContextManager[None]:
        """What a request carries on to the calls it causes."""
        colouring = self._colouring
        if colouring is None or headers.keys().isdisjoint(self._colours):
            return _PLAIN
        given = {key.decode("latin-1"): headers[key].decode("latin-1") for key in self._colours if key in headers}
        return baggage(colouring.carried(given))

    async def _fail(self, exchange: Exchange, error: Exception) -> None:
        """Answer with a problem, or, when the head is out already, break off so that nobody takes half for whole."""
        if exchange.status:
            raise error
        reply = self._account.problem(exchange, error)
        if isinstance(error, (TooLarge, BodyTimeout)):
            await exchange.reply(reply, more=True)
            await drain_body(exchange.receive)
            await exchange.body(b"")
        else:
            await exchange.reply(reply)

    def _preflight(self, exchange: Exchange, allow: str) -> list[tuple[bytes, bytes]]:
        return self._cors.preflight_headers(exchange.headers, allow) if self._cors is not None else []

    async def _healthz(self, _exchange: Exchange) -> Reply:
        return Reply(200, _JSON, b'{"status":"alive"}')

    async def _readyz(self, _exchange: Exchange) -> Reply:
        await self._readiness.ensure()
        return Reply(200, _JSON, b'{"status":"ready"}')

    async def _metrics(self, _exchange: Exchange) -> Reply:
        _active.set(self._in_flight)
        return Reply(200, [(b"content-type", PROMETHEUS_CONTENT_TYPE.encode())], render_prometheus().encode())

    async def _jwks(self, _exchange: Exchange) -> Reply:
        return Reply(200, _JWKS, self._keys.jwks, COMMON_HEADERS)

    async def _file(self, exchange: Exchange) -> Reply:
        return self._files.get(exchange.template, exchange.headers)

    async def _page(self, exchange: Exchange) -> Reply:
        return self._docs.get(exchange.template, exchange.headers)


def _timeout_s(given: bytes | None, most_s: float) -> float:
    if given is None:
        return most_s
    if not given.isdigit() or len(given) > 9 or int(given) == 0:
        raise Invalid(
            "X-Request-Timeout-Ms must be a whole number of milliseconds from 1 to 999999999",
            code="invalid_header",
            field="X-Request-Timeout-Ms",
            source="header",
        )
    return min(most_s, int(given) / 1000)


def _allow(verbs: Mapping[str, object]) -> str:
    names = set(verbs) | {"OPTIONS"}
    if "GET" in names:
        names.add("HEAD")
    return ", ".join(sorted(names))


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        event: Event = {"type": f"{kind}.complete"}
        await send(event)
        if kind == "lifespan.shutdown":
            return
