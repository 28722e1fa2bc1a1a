"""Whether anybody serves at an address, by gRPC's own health check: what the registry asks about the doubted."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2

from dougong.rpc.tls import TlsSettings, channel_credentials

__all__ = ["GrpcProbe"]

PROBE_S = 0.5
_CHECK = "/grpc.health.v1.Health/Check"
_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own: one that hangs elsewhere says nothing new
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
]


class GrpcProbe:
    """A fresh connection and one health check per probe, done within `timeout_s` or not at all.

    A server that knows no health check answers too, so it lives; one that says that it does not serve does not. Where
    servers have `tls`, so must who asks: to a question in the clear all of them are dead.
    """

    def __init__(self, *, timeout_s: float = PROBE_S, tls: TlsSettings | None = None) -> None:
        self._timeout_s = timeout_s
        self._tls = tls

    async def probe(self, address: str) -> bool:
        """Whether `address` serves. Raises nothing but CancelledError, and `Unavailable` (`tls_files`)."""
        channel = await self._channel(address)
        try:
            check = channel.unary_unary(
                _CHECK,
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            async with asyncio.timeout(self._timeout_s):
                answer = await check(health_pb2.HealthCheckRequest(), timeout=self._timeout_s)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
        except TimeoutError:
            return False
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.UNIMPLEMENTED
        finally:
            await channel.close(None)

    async def _channel(self, address: str) -> grpc.aio.Channel:
        if self._tls is None:
            return grpc.aio.insecure_channel(address, options=_OPTIONS)
        options: list[tuple[str, int | str]] = [*_OPTIONS]
        if self._tls.server_name:
            options.append(("grpc.ssl_target_name_override", self._tls.server_name))
        credentials = await asyncio.to_thread(channel_credentials, self._tls)
        return grpc.aio.secure_channel(address, credentials, options=options)
