"""From bytes to a service method and back: decode, check, call, encode, with every failure in the error tree."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import aclosing, contextmanager
from typing import Any, cast

from dougong.contract import BoundBatched, Codec, Message, Method, Service, batch_codec, codec
from dougong.errors import Error, Invalid
from dougong.mesh import accepted_baggage
from dougong.rpc._answer import as_error, count_calls, not_encodable, observe
from dougong.rpc._batch_server import ServedBatches
from dougong.rpc._context import Caller, enter_call
from dougong.rpc._load import Load
from dougong.rpc._origin import origin_of
from dougong.rpc._transport import Incoming, Lost, Metadata, Route, StreamHandler, UnaryHandler
from dougong.rpc.authorize import Authenticator, bind_subject, identify
from dougong.rpc.batcher import Batcher
from dougong.telemetry import continue_trace, span

__all__ = ["routes_of"]


def routes_of(
    service: Service,
    methods: tuple[Method, ...],
    authenticator: Authenticator | None,
    load: Load,
    *,
    frames_per_stream: int,
    max_message_bytes: int,
    batchers: list[Batcher[Any, Any]],
) -> dict[str, Route]:
    """The wire paths of one service object. Batchers made on the way are added to `batchers`, for their closing."""
    routes: dict[str, Route] = {}
    for method in methods:
        bound = getattr(service, method.attribute)
        if method.max_batch:
            many = cast("BoundBatched[Message, Message]", bound).many
            batcher: Batcher[Message, Message] = Batcher(
                many,
                max_batch=method.max_batch,
                max_in_flight=32,
                max_pending=load.max_in_flight,
                by_caller=True,
                name=method.path,
            )
            batchers.append(batcher)
            routes[method.path] = Route(unary=_unary(method, batcher.one, authenticator, load))
            batches = ServedBatches(
                method,
                many,
                batch_codec(method),
                authenticator,
                load,
                frames_per_stream=frames_per_stream,
                max_message_bytes=max_message_bytes,
            )
            routes[method.batch_path] = Route(stream=batches.serve)
        elif method.client_streaming or method.server_streaming:
            routes[method.path] = Route(stream=_stream(method, bound, authenticator, load))
        else:
            routes[method.path] = Route(unary=_unary(method, bound, authenticator, load))
    return routes


def _unary(
    method: Method,
    call: Callable[[Message], Awaitable[Message]],
    authenticator: Authenticator | None,
    load: Load,
) -> UnaryHandler:
    requests, responses = codec(method.request), codec(method.response)
    path = method.path

    async def serve(data: bytes, metadata: Metadata, timeout_s: float | None) -> bytes:
        with _answering(path, metadata):
            caller = identify(method, metadata.authorization, authenticator)
            load.admit(1)
            try:
                if timeout_s is None:
                    timeout_s = method.timeout_s
                end = asyncio.get_running_loop().time() + timeout_s
                enter_call(caller, end, origin_of(caller, metadata.origin), accepted_baggage(metadata.baggage))
                async with asyncio.timeout(timeout_s):
                    request = requests.decode(data)
                    requests.validate(request)
                    response = await call(bind_subject(method, request, caller))
                return _encoded(responses, path, response)
            finally:
                load.release(1)

    return serve


def _stream(
    method: Method,
    call: Callable[[Any], Any],
    authenticator: Authenticator | None,
    load: Load,
) -> StreamHandler:
    requests, responses = codec(method.request), codec(method.response)

    async def arriving(incoming: Incoming, caller: Caller | None) -> AsyncIterator[Message]:
        while (data := await incoming.receive()) is not None:
            request = requests.decode(data)
            requests.validate(request)
            yield bind_subject(method, request, caller)

    async def serve(incoming: Incoming) -> None:
        with _answering(method.path, incoming.metadata):
            caller = identify(method, incoming.metadata.authorization, authenticator)
            load.admit(1)
            try:
                timeout_s = incoming.timeout_s
                end = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
                metadata = incoming.metadata
                enter_call(caller, end, origin_of(caller, metadata.origin), accepted_baggage(metadata.baggage))
                async with asyncio.timeout(timeout_s), aclosing(arriving(incoming, caller)) as stream:  # type: ignore[type-var]
                    argument: AsyncIterator[Message] | Message = stream
                    if not method.client_streaming:
                        argument = await _only(stream, method)
                    if not method.server_streaming:
                        await incoming.send(_encoded(responses, method.path, await call(argument)))
                        return
                    async for response in call(argument):
                        await incoming.send(_encoded(responses, method.path, response))
            finally:
                load.release(1)

    return serve


def _encoded(responses: Codec[Message], path: str, response: Message) -> bytes:
    try:
        return responses.encode(response)
    except Exception as error:
        raise not_encodable(path, error) from error


async def _only(stream: AsyncIterator[Message], method: Method) -> Message:
    async for request in stream:
        return request
    raise Invalid(f"{method.path} takes one request, none came", code="no_request")


@contextmanager
def _answering(path: str, metadata: Metadata) -> Generator[None]:
    """Trace, count, and let out nothing but `Error` and `Lost`."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    code = "ok"
    try:
        with continue_trace(metadata.traceparent), span(path):
            yield
    except Error as error:
        code = error.code
        raise
    except Lost as lost:
        code = lost.error.code
        raise
    except asyncio.CancelledError:
        code = "cancelled"
        raise
    except Exception as error:
        fault = as_error(path, error)
        code = fault.code
        raise fault from error
    finally:
        count_calls(1, path, code)
        observe(loop.time() - started, path)
