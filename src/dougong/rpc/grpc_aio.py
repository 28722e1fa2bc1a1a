"""Transport over grpc.aio, and every trap of it that was met.

- Channels with equal arguments share one TCP connection unless `grpc.use_local_subchannel_pool` is set.
- gRPC's own reconnection backs off for seconds. An instance that restarts is back in half a second, so a connection
  that failed is thrown away and made anew when the caller (who has its own, short back-off) asks again.
- UNAVAILABLE does not say whether the request was sent. We connect as a step of its own: what fails there was surely
  not sent, what fails later has an unknown outcome.
- Closing a channel raises CancelledError in whoever waits for a call on it, as if *they* had been cancelled.
- Cancelling a task inside `write()` or `read()` cancels the whole call. Streams are therefore read and written by tasks
  of their own.
- Why a connection could not be made is told only to a call that failed for it: one is made to ask.
- What HTTP/2 promises was not processed arrives as plain UNAVAILABLE; only its text says so (`status`).
- Over a server's `max_concurrent_streams` calls wait in silence, inside our own gRPC.
- A server that is being collected as garbage closes its port: keep a reference.
- What is collected as garbage in a forked child waits for ever for a thread that is not there (`_forking`).
- Servers answer frequent keepalive pings with GOAWAY too_many_pings unless told that they are welcome.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any, Protocol, TypeAlias, cast

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from dougong.contract import describe, service_pool
from dougong.errors import Error, Unavailable
from dougong.rpc._forking import guard_forks
from dougong.rpc._grpc_connection import ORIGIN, GrpcConnection
from dougong.rpc._transport import (
    Connection,
    Endpoint,
    Listener,
    Lost,
    Metadata,
    Route,
)
from dougong.rpc.status import to_status
from dougong.rpc.tls import TlsSettings, server_credentials

__all__ = ["GrpcTransport"]

# The C core tells people about every GOAWAY on standard error unless asked not to; must be set before its first use.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
guard_forks()
_MethodHandler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"  # generic in the stubs only


class GrpcTransport:
    """Real connections.

    - `max_message_bytes` holds for what clients send and receive; servers bring their own limit.
    - `tls`: both sides show certificates; without it nothing is encrypted and nobody proves who they are. With
      `insecure_network` False, clients without it send nothing, and no token, to other addresses than loopback.
    - `max_concurrent_streams`: calls and batch streams that a server takes on one connection at once. What a client
      sends beyond it waits there in silence: clients keep below it (`PoolSettings.streams_per_connection`).
    """

    def __init__(
        self,
        *,
        max_message_bytes: int = 16 * 1024 * 1024,
        connect_timeout_s: float = 2.0,
        keepalive_s: float = 10.0,
        tls: TlsSettings | None = None,
        insecure_network: bool = True,
        max_concurrent_streams: int = 1024,
    ) -> None:
        self._tls = tls
        self._insecure_network = insecure_network
        self._max_concurrent_streams = max_concurrent_streams
        self._max_message_bytes = max_message_bytes
        self._connect_timeout_s = connect_timeout_s
        self._keepalive_ms = round(keepalive_s * 1000)

    async def listen(self, address: str, endpoint: Endpoint) -> Listener:
        server = grpc.aio.server(
            options=[
                ("grpc.max_concurrent_streams", self._max_concurrent_streams),
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
        credentials = None if self._tls is None else await asyncio.to_thread(server_credentials, self._tls)
        try:
            if credentials is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, credentials)
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
        return GrpcConnection(
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
            tls=self._tls,
            insecure_network=self._insecure_network,
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
            await context.send_initial_metadata(())  # now, and not with the first answer: clients wait for it
            await stream(_GrpcIncoming(context))
        except (Error, Lost) as error:
            await _refuse(context, error)

    return grpc.stream_stream_rpc_method_handler(serve_stream)


async def _refuse(context: grpc.aio.ServicerContext[bytes, bytes], error: Error | Lost) -> bytes:
    code, text, trailers = to_status(error)
    await context.abort(code, text, trailers)
    raise AssertionError("abort raises")


def _metadata(context: grpc.aio.ServicerContext[bytes, bytes]) -> Metadata:
    authorization = traceparent = origin = baggage = ""
    for key, value in context.invocation_metadata() or ():
        if key == "authorization" and isinstance(value, str):
            authorization = value
        elif key == "traceparent" and isinstance(value, str):
            traceparent = value
        elif key == ORIGIN and isinstance(value, str):
            origin = value
        elif key == "baggage" and isinstance(value, str):
            baggage = f"{baggage},{value}" if baggage else value
    return Metadata(authorization, traceparent, origin, baggage)


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
