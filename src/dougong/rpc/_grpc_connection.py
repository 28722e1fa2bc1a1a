"""The client's half of the gRPC transport: one connection, and streams on it. Its traps are told in `grpc_aio`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2

from dougong.errors import Invalid, Unavailable
from dougong.rpc._transport import (
    Lost,
    Metadata,
    Stream,
    connect_failed,
    connection_lost,
)
from dougong.rpc.status import from_status
from dougong.rpc.tls import TlsSettings, channel_credentials, explain_handshake, is_loopback

__all__ = ["ORIGIN", "GrpcConnection", "Options"]

ORIGIN = "x-dougong-origin"
_RETIRE_GRACE_S = 30.0
_ASK_WHY_S = 0.5
_HEALTH_PATH = "/grpc.health.v1.Health/Check"
Options = list[tuple[str, int | str]]
_UnaryCall = Callable[..., Awaitable[bytes]]


class GrpcConnection:
    """One channel, replaced when it failed."""

    def __init__(
        self,
        address: str,
        options: Options,
        *,
        max_message_bytes: int,
        connect_timeout_s: float,
        tls: TlsSettings | None,
        insecure_network: bool,
    ) -> None:
        self._tls = tls
        self._in_the_clear = insecure_network or is_loopback(address.rpartition(":")[0])
        if tls is not None and tls.server_name:
            options.append(("grpc.ssl_target_name_override", tls.server_name))
        self._address = address
        self._options = options
        self._max_message_bytes = max_message_bytes
        self._connect_timeout_s = connect_timeout_s
        self._channel: grpc.aio.Channel | None = None
        self._calls: dict[str, _UnaryCall] = {}
        self._connecting: asyncio.Task[None] | None = None
        self._retired: dict[grpc.aio.Channel, asyncio.Task[None]] = {}
        self._watching: set[asyncio.Task[None]] = set()
        """One for each time that a channel was connected, until it no longer is."""
        self._closed = False
        self.on_leaving: Callable[[], object] | None = None

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

    async def check(self, timeout_s: float) -> None:
        """Connect, and ask the standard health service. A stranger that has none is taken to be well."""
        channel = await self._ready(None)
        check = channel.unary_unary(_HEALTH_PATH, None, None)
        try:
            answer = await check(b"", timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND):
                return
            raise connect_failed(self._address, f"health check: {error.details()}") from None
        except grpc.aio.UsageError as error:
            raise connect_failed(self._address, str(error)) from None
        except asyncio.CancelledError:
            if _cancelled_ourselves():
                raise
            raise connect_failed(self._address, "the client is closed") from None
        if health_pb2.HealthCheckResponse.FromString(answer).status != health_pb2.HealthCheckResponse.SERVING:
            refusal = Unavailable(f"{self._address} says that it is not serving: ask another", code="not_serving")
            raise Lost(refusal, started=False)

    async def _watch(self, channel: grpc.aio.Channel) -> None:
        """A server that says goodbye (GOAWAY, for its `max_connection_age` say) answers what it has: calls must go
        elsewhere before it breaks off the rest."""
        with contextlib.suppress(grpc.aio.UsageError, asyncio.InvalidStateError):
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        if self.on_leaving is not None and channel is self._channel:
            self.on_leaving()

    async def close(self) -> None:
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        for watching in self._watching:
            watching.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
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
            channel = self._channel = await self._new_channel()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                state = channel.get_state(try_to_connect=True)
                while state is not grpc.ChannelConnectivity.READY:
                    if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
                        raise await self._why_not(channel)
                    await channel.wait_for_state_change(state)
                    state = channel.get_state(try_to_connect=True)
        except TimeoutError:
            raise connect_failed(self._address, f"no answer within {self._connect_timeout_s} s") from None
        watching = asyncio.get_running_loop().create_task(self._watch(channel))
        self._watching.add(watching)
        watching.add_done_callback(self._watching.discard)

    async def _new_channel(self) -> grpc.aio.Channel:
        if self._tls is None:
            if not self._in_the_clear:
                raise Lost(_insecure(self._address), started=False)
            return grpc.aio.insecure_channel(self._address, options=self._options)
        try:
            credentials = await asyncio.to_thread(channel_credentials, self._tls)
        except Unavailable as error:
            raise Lost(error, started=False) from None
        return grpc.aio.secure_channel(self._address, credentials, options=self._options)

    async def _why_not(self, channel: grpc.aio.Channel) -> Lost:
        """gRPC tells why it could not connect only to a call that failed for it: here is one."""
        try:
            await channel.unary_unary(_HEALTH_PATH, None, None)(b"", timeout=_ASK_WHY_S)
        except grpc.aio.AioRpcError as error:
            details = error.details() or ""
            explained = explain_handshake(self._address, details, self._tls)
            if explained is not None:
                return Lost(explained, started=False)
            return connect_failed(self._address, details.rpartition("last error: ")[2] or "refused or unreachable")
        return connect_failed(self._address, "it was, for a moment, refused or unreachable")

    def _retire(self) -> None:
        """Let go of the channel; calls still on it may end."""
        channel, self._channel = self._channel, None
        self._calls = {}
        if channel is not None:
            task = asyncio.get_running_loop().create_task(channel.close(_RETIRE_GRACE_S))
            self._retired[channel] = task
            task.add_done_callback(lambda _: self._retired.pop(channel, None))


class _GrpcStream:
    def __init__(self, connection: GrpcConnection, address: str, call: grpc.aio.StreamStreamCall[bytes, bytes]) -> None:
        self._connection = connection
        self._address = address
        self._call = call

    async def send(self, message: bytes) -> None:
        self._connection.check_size(message)
        await self._step(self._call.write(message))

    async def accepted(self, timeout_s: float) -> None:
        """Wait until the server has taken the stream, or for `timeout_s`: a stranger speaks when it has an answer.

        A write to a stream that was refused fails by itself, and gRPC then hides why: whether anything was begun.
        """
        call = self._call
        try:
            async with asyncio.timeout(timeout_s):
                await self._step(call.initial_metadata())
        except TimeoutError:
            return
        if call.done():
            code, trailers, text = await call.code(), await call.trailing_metadata(), await call.details()
            raise from_status(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, text, None), self._address)

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
    pairs = (
        ("authorization", metadata.authorization),
        ("traceparent", metadata.traceparent),
        (ORIGIN, metadata.origin),
        ("baggage", metadata.baggage),
    )
    return (*(pair for pair in pairs if pair[1]), *metadata.headers)


def _insecure(address: str) -> Unavailable:
    return Unavailable(
        f"nothing is sent to {address}: without TLS the token would go over the network in the clear. Set"
        " DOUGONG_TLS_CA, DOUGONG_TLS_CERTIFICATE and DOUGONG_TLS_KEY; or DOUGONG_INSECURE_NETWORK=true where something"
        " else protects it",
        code="insecure_network",
        address=address,
    )
