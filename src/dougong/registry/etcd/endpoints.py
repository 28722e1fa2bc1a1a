"""One endpoint of the cluster over grpc.aio, and the traps of that met here.

- Channels with equal arguments share one TCP connection unless `grpc.use_local_subchannel_pool` is set.
- Connecting is a step of its own: what fails there was surely not sent.
- Closing a channel raises CancelledError in whoever waits for a call on it, as if *they* had been cancelled.
- Cancelling a task inside `read()` cancels the whole call: a stream is read by a task of its own.
- etcd answers keepalive pings that come more often than every 5 s with GOAWAY too_many_pings.
- A member without a leader answers from what it last knew, for ever, unless told that this is not wanted (`hasleader`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import grpc
import grpc.aio

from dougong.errors import Invalid
from dougong.registry.etcd.failures import Failed
from dougong.registry.etcd.settings import EtcdSettings

__all__ = ["Endpoint", "Stream", "credentials"]

T = TypeVar("T")

# The C core tells people about every GOAWAY on standard error unless asked not to; must be set before its first use.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.keepalive_time_ms", 6000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_retries", 0),  # one place retries: the cluster above, which knows what may be repeated
    ("grpc.enable_http_proxy", 0),
]
_UnaryCall = Callable[..., Awaitable[bytes]]


def credentials(settings: EtcdSettings) -> grpc.ChannelCredentials | None:
    """None for plain text. Raises `Invalid` (`registry_tls`) for a file that cannot be read."""
    if not settings.tls:
        return None
    ca, cert, key = (_content(name, getattr(settings, name)) for name in ("ca", "cert", "key"))
    return grpc.ssl_channel_credentials(ca, key, cert)


def _content(name: str, path: str) -> bytes | None:
    try:
        return Path(path).read_bytes() if path else None
    except OSError as error:
        raise Invalid(
            f"etcd registry URL: {name}={path} cannot be read: {error.strerror}", code="registry_tls", path=path
        ) from None


class Endpoint:
    """A channel to one endpoint. It reconnects by itself, twice a second at most."""

    def __init__(self, address: str, tls: grpc.ChannelCredentials | None) -> None:
        self.address = address
        self._tls = tls
        self._channel: grpc.aio.Channel | None = None
        self._calls: dict[str, _UnaryCall] = {}

    async def unary(self, path: str, request: bytes, token: str, timeout_s: float) -> bytes:
        """One question, one answer. Raises `Failed`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        channel = await self._ready(timeout_s)
        call = self._calls.get(path)
        if call is None:
            call = self._calls[path] = channel.unary_unary(path, None, None)
        return await self._step(call(request, timeout=max(0.001, until - loop.time()), metadata=_metadata(token)))

    async def stream(self, path: str, request: bytes, token: str, timeout_s: float) -> Stream:
        """A stream whose first message is `request`, once the server has said something."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        channel = await self._ready(timeout_s)
        try:
            call = channel.stream_stream(path, None, None)(None, metadata=_metadata(token))
        except grpc.aio.UsageError as error:
            raise Failed("UNAVAILABLE", str(error), self.address, sent=False) from None
        stream = Stream(self, call)
        try:
            async with asyncio.timeout_at(until):
                await stream.send(request)
                await stream.begin()
        except TimeoutError:
            await stream.close()
            raise Failed("DEADLINE_EXCEEDED", f"no stream within {timeout_s:.2f} s", self.address) from None
        except BaseException:
            await stream.close()
            raise
        return stream

    async def close(self) -> None:
        channel, self._channel = self._channel, None
        self._calls = {}
        if channel is not None:
            await channel.close(None)

    async def _ready(self, timeout_s: float) -> grpc.aio.Channel:
        channel = self._channel
        if channel is None:
            if self._tls is None:
                channel = grpc.aio.insecure_channel(self.address, options=_OPTIONS)
            else:
                channel = grpc.aio.secure_channel(self.address, self._tls, options=_OPTIONS)
            self._channel = channel
        state = channel.get_state(try_to_connect=True)
        if state is grpc.ChannelConnectivity.READY:
            return channel
        try:
            async with asyncio.timeout(timeout_s):
                while state is not grpc.ChannelConnectivity.READY:
                    if state in {grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN}:
                        raise Failed("UNAVAILABLE", self._unreachable(), self.address, sent=False)
                    await channel.wait_for_state_change(state)
                    state = channel.get_state(try_to_connect=True)
        except TimeoutError:
            raise Failed("UNAVAILABLE", f"no connection within {timeout_s:.2f} s", self.address, sent=False) from None
        except (grpc.aio.UsageError, grpc.aio.InternalError) as error:  # closed meanwhile
            raise Failed("UNAVAILABLE", str(error), self.address, sent=False) from None
        return channel

    def _unreachable(self) -> str:
        return "connection refused or unreachable" + (", or the certificates do not fit" if self._tls else "")

    async def _step(self, step: Awaitable[T]) -> T:
        try:
            return await step
        except grpc.aio.AioRpcError as error:
            raise Failed(error.code().name, error.details() or "", self.address) from None
        except (asyncio.InvalidStateError, grpc.aio.UsageError, grpc.aio.InternalError) as error:
            raise Failed("UNAVAILABLE", f"connection lost: {error}", self.address) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling() > 0:
                raise
            raise Failed("UNAVAILABLE", "connection closed", self.address) from None


class Stream:
    """Messages both ways, for one reader."""

    def __init__(self, endpoint: Endpoint, call: grpc.aio.StreamStreamCall[bytes, bytes]) -> None:
        self.address = endpoint.address
        self._endpoint = endpoint
        self._call = call
        self._reading: asyncio.Task[object] | None = None

    async def send(self, message: bytes) -> None:
        await self._endpoint._step(self._call.write(message))

    async def begin(self) -> None:
        """Wait until there is something to receive."""
        self._reading = asyncio.ensure_future(self._read())
        await asyncio.wait({self._reading})

    async def receive(self, patience_s: float) -> bytes | None:
        """The next message, or None when none came in time; nothing is lost then."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._read())
        if not self._reading.done():
            await asyncio.wait({self._reading}, timeout=patience_s)
            if not self._reading.done():
                return None
        reading, self._reading = self._reading, None
        message = await reading
        if not isinstance(message, bytes):
            raise Failed("UNAVAILABLE", "the server ended the stream", self.address)
        return message

    async def close(self) -> None:
        self._call.cancel()
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self) -> object:
        return await self._endpoint._step(self._call.read())


def _metadata(token: str) -> tuple[tuple[str, str], ...]:
    return (("hasleader", "true"), ("token", token)) if token else (("hasleader", "true"),)
