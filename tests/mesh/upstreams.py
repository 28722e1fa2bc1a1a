"""Hosts that answer as told, over HTTP/1.1 and gRPC, and the client that calls them through Envoy.

What a host says is decided per cluster, so that all clusters share a few ports. An answer is an HTTP status, or
`"hang"` (never), `"reset"` (the connection is closed), `"hold"` (200, once released), `"grpc:CODE"` (in trailers) or
`"grpc!CODE"` (in the headers).
"""

from __future__ import annotations

import asyncio
import functools
from collections import defaultdict, deque
from collections.abc import Callable

import grpc
import grpc.aio

__all__ = ["Answer", "Caller", "Upstreams"]

Answer = int | str


class Upstreams:
    """`hosts` servers of each kind; `decide[cluster](host, attempt, id)` says what to answer."""

    def __init__(self, hosts: int) -> None:
        self.decide: dict[str, Callable[[int, int, str], Answer]] = {}
        self.held: defaultdict[str, deque[asyncio.Event]] = defaultdict(deque)
        """Calls that hosts hold, by cluster, in the order of arrival."""
        self.held_by: defaultdict[str, list[int]] = defaultdict(list)
        """Which hosts they came to."""
        self._count = hosts
        self._servers: list[asyncio.Server] = []
        self._grpc: list[grpc.aio.Server] = []
        self.ports: tuple[int, ...] = ()
        self.grpc_ports: tuple[int, ...] = ()
        self.open: set[_Http] = set()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        for host in range(self._count):
            self._servers.append(await loop.create_server(functools.partial(_Http, self, host), "127.0.0.1", 0))
        self.ports = tuple(server.sockets[0].getsockname()[1] for server in self._servers)
        ports: list[int] = []
        for host in range(2):
            rpc = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
            rpc.add_generic_rpc_handlers((_Anything(self, host),))
            ports.append(rpc.add_insecure_port("127.0.0.1:0"))
            await rpc.start()
            self._grpc.append(rpc)
        self.grpc_ports = tuple(ports)

    async def stop(self) -> None:
        for held in self.held.values():
            for event in held:
                event.set()
        for server in self._servers:
            server.close()
        for connection in list(self.open):
            connection.close()
        for rpc in self._grpc:
            await rpc.stop(0)

    async def hold(self, cluster: str, host: int) -> None:
        event = asyncio.Event()
        self.held[cluster].append(event)
        self.held_by[cluster].append(host)
        await event.wait()


class _Http(asyncio.Protocol):
    def __init__(self, upstreams: Upstreams, host: int) -> None:
        self._upstreams = upstreams
        self._host = host
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._holding: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._upstreams.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstreams.open.discard(self)
        for task in self._holding:
            task.cancel()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            lines = head.decode().split("\r\n")[1:]
            headers = dict(line.lower().split(": ", 1) for line in lines)
            cluster = headers["x-cluster"]
            attempt = int(headers.get("x-envoy-attempt-count", "1"))
            self._answer(cluster, self._upstreams.decide[cluster](self._host, attempt, headers["x-id"]))

    def _answer(self, cluster: str, answer: Answer) -> None:
        if answer == "hold":
            task = asyncio.get_running_loop().create_task(self._hold(cluster))
            self._holding.add(task)
            task.add_done_callback(self._holding.discard)
        elif answer == "reset":
            self.close()
        elif answer != "hang":
            self._send(int(answer))

    async def _hold(self, cluster: str) -> None:
        await self._upstreams.hold(cluster, self._host)
        self._send(200)

    def _send(self, status: int) -> None:
        assert self._transport is not None
        self._transport.write(f"HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n".encode())


class _Anything(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    def __init__(self, upstreams: Upstreams, host: int) -> None:
        self._upstreams = upstreams
        self._host = host

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        return grpc.unary_unary_rpc_method_handler(self._handle)

    async def _handle(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        metadata = dict(context.invocation_metadata() or ())
        cluster, name = str(metadata["x-cluster"]), str(metadata["x-id"])
        answer = self._upstreams.decide[cluster](self._host, 1, name)
        if answer == "hold":
            await self._upstreams.hold(cluster, self._host)
            return b""
        if isinstance(answer, str):
            code = next(code for code in grpc.StatusCode if code.value[0] == int(answer[5:]))
            if answer[4] == ":":
                await context.send_initial_metadata(())
            await context.abort(code, "as told")
        return b""


class Caller:
    """One keep-alive connection to Envoy: one call at a time, as a sidecar's application would make them."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._channel: grpc.aio.Channel | None = None

    async def call(self, cluster: str, name: str, *extra: str) -> int:
        """The status of the answer."""
        async with asyncio.timeout(40):
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            lines = ["GET / HTTP/1.1", "host: x", f"x-cluster: {cluster}", f"x-id: {name}"]
            lines += [f"{header}: 1" for header in extra]
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            status = int(head.split(" ", 2)[1])
            length = next((line[16:] for line in head.split("\r\n") if line.startswith("content-length: ")), "0")
            await reader.readexactly(int(length))
            return status

    async def call_grpc(self, cluster: str, name: str) -> int:
        """The same over gRPC; 200 or 503."""
        if self._channel is None:
            options = [("grpc.use_local_subchannel_pool", 1)]
            self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{self._port}", options=options)
        method = self._channel.unary_unary("/test.Test/Call", None, None)
        try:
            await method(b"", metadata=(("x-cluster", cluster), ("x-id", name)), timeout=40)
        except grpc.aio.AioRpcError:
            return 503
        return 200

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
