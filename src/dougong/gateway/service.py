"""Calls on a connection go to the service methods that REST serves, by the same rules.

{"kind": "call", "id": 1, "method": "shop.v1.Orders/Get", "data": {...}} is `GET /v1/orders/...` without the HTTP: the
same decoding, roles, subject, deadline, trace and errors. What a method takes from path or headers is in `data` here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, cast

from dougong.errors import DeadlineExceeded, NotFound, Overloaded
from dougong.gateway.asking import Asker
from dougong.gateway.conversation import Calls
from dougong.gateway.messages import Call
from dougong.gateway.within import Begun, begin
from dougong.telemetry import continue_trace, span

if TYPE_CHECKING:
    from dougong.contract import Message, Method, Service
    from dougong.http import Binder

__all__ = ["service_calls"]

_NAME_SHOWN_MAX = 100


class _Route:
    __slots__ = ("bind", "call", "encode", "method")

    def __init__(self, method: Method, binder: Binder, target: object) -> None:
        self.method = method
        self.bind = binder.bind
        self.encode = binder.encode
        # Batched methods are called with one request, as `BoundBatched.__call__` allows; so are remote clients'.
        self.call = cast("Callable[[Message], Awaitable[Message]]", getattr(target, method.attribute))


def service_calls(routes: Sequence[tuple[type[Service], Service]], *, max_in_flight: int = 10_000) -> Calls:
    """What `Gateway(calls=...)` takes: services with local objects or remote clients, as for `HttpFront`.

    Methods with an `http` rule can be called, internal ones never, streams and raw bodies not this way. A call has its
    method's `timeout_s`, which the client may shorten; past `max_in_flight` at once callers are told to back off.
    """
    # Here, once: gateways that answer no calls do without the 30 MB of gRPC, times the number of workers.
    from dougong import rpc  # `authorize` is a module's name, too, and doors are watched by name
    from dougong.contract import describe, field_sources
    from dougong.http import Binder

    methods: dict[str, _Route] = {}
    for service, target in routes:
        for method in describe(service).methods:
            if method.http is None or method.internal or method.client_streaming or method.server_streaming:
                continue
            if "raw" not in field_sources(method.request).values():
                methods[method.path[1:]] = _Route(method, Binder(method, whole=True), target)
    in_flight = 0

    async def calls(asker: Asker, call: Call) -> bytes:
        nonlocal in_flight
        route = methods.get(call.method)
        if route is None:
            raise NotFound(f"{call.method[:_NAME_SHOWN_MAX]!r} cannot be called here", code="no_such_method")
        if in_flight >= max_in_flight:
            raise Overloaded(f"{max_in_flight} calls are being answered", code="too_many_calls", retry_after_s=1.0)
        in_flight += 1
        try:
            if not call.traceparent:
                with span(call.method):
                    return await answer(route, asker, call)
            with continue_trace(call.traceparent), span(call.method):
                return await answer(route, asker, call)
        finally:
            in_flight -= 1

    async def answer(route: _Route, asker: Asker, call: Call) -> bytes:
        method, caller = route.method, asker.caller
        rpc.authorize(method, caller)
        request = rpc.bind_subject(method, route.bind((), b"", {}, bytes(call.data)), caller)
        timeout_s = min(call.timeout_s, method.timeout_s, asker.timeout_s)
        origin = rpc.Origin(asker.ip, "" if caller is None else caller.session)
        with rpc.call_scope(caller=caller, timeout_s=timeout_s, origin=origin):
            begun = begin(route.call(request))
            return route.encode(await _in_time(call, begun, timeout_s) if isinstance(begun, Begun) else begun)

    return calls


async def _in_time(call: Call, begun: Begun[Message], timeout_s: float) -> Message:
    timer = asyncio.timeout(timeout_s)
    try:
        async with timer:
            return await begun
    except TimeoutError as error:
        if not timer.expired():
            raise
        raise DeadlineExceeded(
            f"{call.method} did not answer within {timeout_s:g} s; what it did is unknown",
            code="deadline_exceeded",
            timeout_s=timeout_s,
        ) from error
