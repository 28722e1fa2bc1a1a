"""Transport over grpc.aio, and every trap of it that was met.

- Channels with equal arguments share one TCP connection unless `grpc.use_local_subchannel_pool` is set.
- gRPC's own reconnection backs off for seconds. An instance that restarts is back in half a second, so a connection
  that failed is thrown away and made anew when the caller (who has its own, short back-off) asks again.
- UNAVAILABLE does not say whether the request was sent. We connect as a step of its own: what fails there was surely
  not sent, what fails later has an unknown outcome.
- Closing a channel raises CancelledError in whoever waits for a call on it, as if *they* had been cancelled.
- Cancelling a task inside `write()` or `read()` cancels the whole call. Streams are therefore read and written by tasks
  of their own.
- Servers answer frequent keepalive pings with GOAWAY too_many_pings unless told that they are welcome.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias, cast

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from dougong.contract import describe, service_pool
from dougong.errors import Error, Invalid, Unavailable
from dougong.rpc._transport import (
    Connection,
    Endpoint,
    Listener,
    Lost,
    Metadata,
    Route,
    Stream,
    connect_failed,
    connection_lost,
)
from dougong.rpc.status import from_status, to_status

__all__ = ["GrpcTransport"]

# The C core tells people about every GOAWAY on standard error unless asked not to; must be set before its first use.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
_RETIRE_GRACE_S = 30.0
Options = list[tuple[str, int]]
_UnaryCall = Callable[..., Awaitable[bytes]]
_MethodHandler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"  # generic in the stubs only


class GrpcTransport:
    """Real connections. `max_message_bytes` holds for what clients send and receive; servers bring their own limit."""

    def __init__(
        self,
        *,
        max_message_bytes: int = 16 * 1024 * 1024,
        connect_timeout_s: float = 2.0,
        keepalive_s: float = 10.0,
    ) -> None:
        self._max_message_bytes = max_message_bytes
        self._connect_timeout_s = connect_timeout_s
        self._keepalive_ms = round(keepalive_s * 1000)

    async def listen(self, address: str, endpoint: Endpoint) -> Listener:
        server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),  # two servers on one port would share the calls by chance
                ("grpc.max_receive_message_length", endpoint.max_message_bytes),
                ("grpc.max_send_message_length", endpoint.max_message_bytes),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", self._keepalive_ms // 4),
                ("grpc.http2.max_ping_strikes", 0),
                ("grpc.keepalive_time_ms", 3 * self._keepalive_ms),
                ("grpc.keepalive_timeout_ms", self._keepalive_ms),
            ]
        )
        server.add_generic_rpc_handlers((_Routes(endpoint),))
        checks: _Checks = vars(health)["aio"].HealthServicer()  # the published stubs do not know the asyncio half
        health_pb2_grpc.add_HealthServicer_to_server(cast("Any", checks), server)
        names = tuple(describe(service).name for service in endpoint.service_types)
        reflection.enable_server_reflection(
            (*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server, pool=service_pool(endpoint.service_types)
        )
        host, _, _ = address.rpartition(":")
        try:
            port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise Unavailable(
                f"cannot listen on {address}: taken by another process, or not an address of this machine",
                code="address_taken",
                address=address,
            ) from error
        listener = _GrpcListener(server, checks, names, f"{host}:{port}")
        try:
            await server.start()
            await listener.set_serving(True)
        except BaseException:  # cancelled half-way: nobody else knows of this server
            await listener.stop(0)
            raise
        return listener

    def connect(self, address: str) -> Connection:
        return _GrpcConnection(
            address,
            [
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_receive_message_length", self._max_message_bytes),
                ("grpc.max_send_message_length", self._max_message_bytes),
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.min_reconnect_backoff_ms", round(self._connect_timeout_s * 1000)),
                ("grpc.max_reconnect_backoff_ms", 500),
                ("grpc.keepalive_time_ms", self._keepalive_ms),
                ("grpc.keepalive_timeout_ms", self._keepalive_ms // 2),
                ("grpc.http2.max_pings_without_data", 0),
                ("grpc.enable_retries", 0),  # one place retries: the client above, which knows what is idempotent
                ("grpc.enable_http_proxy", 0),
            ],
            max_message_bytes=self._max_message_bytes,
            connect_timeout_s=self._connect_timeout_s,
        )


class _Checks(Protocol):
    """The asyncio form of grpc_health's servicer."""

    async def set(self, service: str, status: int) -> None: ...


class _GrpcListener:
    def __init__(self, server: grpc.aio.Server, checks: _Checks, services: tuple[str, ...], address: str) -> None:
        self._server = server
        self._checks = checks
        self._services = services
        self._address = address

    @property
    def address(self) -> str:
        return self._address

    async def set_serving(self, serving: bool) -> None:
        kind = health_pb2.HealthCheckResponse
        status = kind.SERVING if serving else kind.NOT_SERVING
        for service in ("", *self._services):
            await self._checks.set(service, status)

    async def stop(self, grace_s: float) -> None:
        await self._server.stop(grace_s)


class _Routes(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Paths to handlers on raw bytes: encoding is done above, once per batch."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._handlers = {path: _handler(route) for path, route in endpoint.routes.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> _MethodHandler | None:
        return self._handlers.get(handler_call_details.method)


def _handler(route: Route) -> _MethodHandler:
    unary, stream = route.unary, route.stream
    if unary is not None:

        async def serve_unary(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            try:
                return await unary(request, _metadata(context), context.time_remaining())
            except (Error, Lost) as error:
                return await _refuse(context, error)

        return grpc.unary_unary_rpc_method_handler(serve_unary)
    assert stream is not None

    async def serve_stream(_: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        try:
            await stream(_GrpcIncoming(context))
        except (Error, Lost) as error:
            await _refuse(context, error)

    return grpc.stream_stream_rpc_method_handler(serve_stream)


async def _refuse(context: grpc.aio.ServicerContext[bytes, bytes], error: Error | Lost) -> bytes:
    code, text, trailers = to_status(error)
    await context.abort(code, text, trailers)
    raise AssertionError("abort raises")


def _metadata(context: grpc.aio.ServicerContext[bytes, bytes]) -> Metadata:
    authorization = traceparent = ""
    for key, value in context.invocation_metadata() or ():
        if key == "authorization" and isinstance(value, str):
            authorization = value
        elif key == "traceparent" and isinstance(value, str):
            traceparent = value
    return Metadata(authorization, traceparent)


class _GrpcIncoming:
    def __init__(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        self._context = context
        self.metadata = _metadata(context)
        self.timeout_s: float | None = context.time_remaining()

    async def receive(self) -> bytes | None:
        message: object = await self._context.read()
        return message if isinstance(message, bytes) else None  # else it is grpc.aio.EOF

    async def send(self, message: bytes) -> None:
        await self._context.write(message)


class _GrpcConnection:
    """One channel, replaced when it failed."""

    def __init__(self, address: str, options: Options, *, max_message_bytes: int, connect_timeout_s: float) -> None:
        self._address = address
        self._options = options
        self._max_message_bytes = max_message_bytes
        self._connect_timeout_s = connect_timeout_s
        self._channel: grpc.aio.Channel | None = None
        self._calls: dict[str, _UnaryCall] = {}
        self._connecting: asyncio.Task[None] | None = None
        self._retired: dict[grpc.aio.Channel, asyncio.Task[None]] = {}
        self._closed = False

    async def unary(self, path: str, request: bytes, metadata: Metadata, timeout_s: float | None) -> bytes:
        self._check_size(request)
        channel = await self._ready(timeout_s)
        call = self._calls.get(path)
        if call is None:
            call = self._calls[path] = channel.unary_unary(path, None, None)
        try:
            return await call(request, timeout=timeout_s, metadata=_pairs(metadata))
        except grpc.aio.AioRpcError as error:
            raise from_status(error, self._address) from None
        except grpc.aio.UsageError as error:  # the channel was closed under us
            raise connection_lost(self._address, str(error)) from None
        except asyncio.CancelledError:
            if _cancelled_ourselves():
                raise
            raise connection_lost(self._address, "connection closed") from None

    async def stream(self, path: str, metadata: Metadata, timeout_s: float | None) -> Stream:
        channel = await self._ready(timeout_s)
        try:
            call = channel.stream_stream(path, None, None)(None, timeout=timeout_s, metadata=_pairs(metadata))
        except grpc.aio.UsageError as error:
            raise connect_failed(self._address, str(error)) from None
        return _GrpcStream(self, self._address, call)

    async def close(self) -> None:
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        self._retire()
        for channel in list(self._retired):
            await channel.close(None)
        await asyncio.gather(*self._retired.values(), return_exceptions=True)

    def check_size(self, message: bytes) -> None:
        self._check_size(message)

    def _check_size(self, message: bytes) -> None:
        if len(message) > self._max_message_bytes:
            raise Invalid(
                f"message of {len(message)} bytes to {self._address}, at most {self._max_message_bytes} may be sent",
                code="message_too_large",
            )

    async def _ready(self, timeout_s: float | None) -> grpc.aio.Channel:
        channel = self._channel
        if channel is not None and channel.get_state() is grpc.ChannelConnectivity.READY:
            return channel
        if self._closed:
            raise connect_failed(self._address, "the client is closed")
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
            self._connecting.add_done_callback(self._connected)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._connecting)
        except TimeoutError:
            raise connect_failed(self._address, f"not connected within {timeout_s:.3f} s") from None
        except asyncio.CancelledError:
            if _cancelled_ourselves():
                raise
            raise connect_failed(self._address, "the client is closed") from None
        if self._channel is None:
            raise connect_failed(self._address, "the client is closed")
        return self._channel

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # waiters have it already; when they all gave up, nobody needs it

    async def _connect(self) -> None:
        channel = self._channel
        # IDLE is how a connection looks whose server said goodbye but still answers what it has: keep the channel.
        if channel is None or channel.get_state() is not grpc.ChannelConnectivity.IDLE:
            self._retire()
            channel = self._channel = grpc.aio.insecure_channel(self._address, options=self._options)
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                state = channel.get_state(try_to_connect=True)
                while state is not grpc.ChannelConnectivity.READY:
                    if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
                        raise connect_failed(self._address, "connection refused or unreachable")
                    await channel.wait_for_state_change(state)
                    state = channel.get_state(try_to_connect=True)
        except TimeoutError:
            raise connect_failed(self._address, f"no answer within {self._connect_timeout_s} s") from None

    def _retire(self) -> None:
        """Let go of the channel; calls still on it may end."""
        channel, self._channel = self._channel, None
        self._calls = {}
        if channel is not None:
            task = asyncio.get_running_loop().create_task(channel.close(_RETIRE_GRACE_S))
            self._retired[channel] = task
            task.add_done_callback(lambda _: self._retired.pop(channel, None))


class _GrpcStream:
    def __init__(
        self, connection: _GrpcConnection, address: str, call: grpc.aio.StreamStreamCall[bytes, bytes]
    ) -> None:
        self._connection = connection
        self._address = address
        self._call = call

    async def send(self, message: bytes) -> None:
        self._connection.check_size(message)
        await self._step(self._call.write(message))

    async def finish(self) -> None:
        await self._step(self._call.done_writing())

    async def receive(self) -> bytes | None:
        message = await self._step(self._call.read())
        return message if isinstance(message, bytes) else None

    def cancel(self) -> None:
        self._call.cancel()

    async def _step(self, step: Awaitable[object]) -> object:
        try:
            return await step
        except grpc.aio.AioRpcError as error:
            raise from_status(error, self._address) from None
        except (asyncio.InvalidStateError, grpc.aio.UsageError, grpc.aio.InternalError) as error:
            # The call has ended already; InvalidStateError is also how max_connection_age shows itself.
            raise connection_lost(self._address, str(error)) from None
        except asyncio.CancelledError:
            if _cancelled_ourselves():
                raise
            raise connection_lost(self._address, "connection closed") from None


def _cancelled_ourselves() -> bool:
    """Whether the CancelledError at hand was meant for this task, or is gRPC's way to say that a call is over."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _pairs(metadata: Metadata) -> tuple[tuple[str, str], ...]:
    if metadata.traceparent:
        if metadata.authorization:
            return ("authorization", metadata.authorization), ("traceparent", metadata.traceparent)
        return (("traceparent", metadata.traceparent),)
    return (("authorization", metadata.authorization),) if metadata.authorization else ()
