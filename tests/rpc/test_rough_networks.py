"""Servers and connections that misbehave: callers see no error where another instance, or another moment, will do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import grpc.aio
import pytest
from tests.rpc.conftest import Lab, closed_gate, until
from tests.rpc.example import Answer, Ask, Example

from dougong.errors import DeadlineExceeded, Error, Overloaded, Unavailable
from dougong.rpc import GrpcTransport, PoolSettings, PoolStats, Server, call_scope, pool_stats

RST, SETTINGS, PING, GOAWAY, HEADERS = 3, 4, 6, 7, 1
REFUSED_STREAM = 7


@contextlib.asynccontextmanager
async def load(calls: list[Callable[[str], Awaitable[object]]]) -> AsyncGenerator[None]:
    """Keep calling inside the block; at its end nothing may have gone wrong."""
    failures: list[object] = []
    stop = asyncio.Event()

    async def keep(call: Callable[[str], Awaitable[object]], name: str) -> None:
        serial = 0
        while not stop.is_set():
            serial += 1
            try:
                outcome = await call(f"{name}-{serial}")
            except Error as error:
                failures.append((name, error))
                await asyncio.sleep(0.01)
            else:
                if not isinstance(outcome, Answer):
                    failures.append((name, outcome))

    async with asyncio.TaskGroup() as group:
        for index, call in enumerate(calls):
            group.create_task(keep(call, f"c{index}"))
        yield
        stop.set()
    assert not failures


def mixed(remote: Example) -> list[Callable[[str], Awaitable[object]]]:
    """Unary and batched, idempotent and not."""
    shapes = (remote.change, remote.get, remote.place, remote.look)
    return [lambda text, shape=shape: shape(Ask(text=text)) for shape in shapes for _ in range(3)]  # type: ignore[misc]


def seen(remote: Example, server: Server) -> PoolStats:
    return pool_stats(remote).get(server.address, PoolStats())


async def test_a_rolling_restart_under_load_fails_nothing(grpc_lab: Lab) -> None:
    services = [Example(str(number)) for number in range(3)]
    servers = [await grpc_lab.serve(service) for service in services]
    addresses = [server.address for server in servers]
    remote = grpc_lab.call(addresses)
    async with load(mixed(remote)):
        for number in range(3):
            await until(lambda number=number: services[number].finished > 20)  # type: ignore[misc]
            assert await servers[number].drain(5)
            await servers[number].stop()
            services[number] = Example(str(number))
            servers[number] = await grpc_lab.serve(services[number], addresses[number])
        await until(lambda: services[2].finished > 20)


async def test_a_server_that_ends_connections_by_age_is_not_noticed(
    grpc_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As strangers' servers do, and proxies: GOAWAY, then a moment for what is under way, then the end."""
    real = grpc.aio.server

    def ageing(*, options: list[tuple[str, Any]]) -> Any:
        age = [("grpc.max_connection_age_ms", 300), ("grpc.max_connection_age_grace_ms", 1000)]
        return real(options=[*options, *age])

    monkeypatch.setattr(grpc.aio, "server", ageing)
    service = Example()
    server = await grpc_lab.serve(service)
    remote = grpc_lab.call(server.address)
    async with load(mixed(remote)):
        await until(lambda: seen(remote, server).retired.get("sent_away", 0) >= 4)


async def test_connections_are_replaced_by_age_and_by_count_without_an_error(grpc_lab: Lab) -> None:
    server = await grpc_lab.serve(Example())
    settings = PoolSettings(max_age_s=0.2, max_requests=50, creations_per_s=1000.0)
    remote = grpc_lab.call(server.address, pool=settings)
    async with load(mixed(remote)):
        await until(lambda: seen(remote, server).retired.get("requests", 0) >= 10)
    await asyncio.sleep(0.3)
    for _ in range(3):
        await remote.get(Ask())
        await asyncio.sleep(0.25)
    stats = seen(remote, server)
    assert stats.retired.get("age", 0) >= 2
    assert set(stats.retired) <= {"age", "requests"}
    assert stats.connections <= 2


async def test_calls_beyond_what_the_server_takes_wait_for_their_turn(grpc_lab: Lab) -> None:
    service = Example()
    strict = Lab(GrpcTransport(max_concurrent_streams=4))
    try:
        server = await strict.serve(service)
        remote = strict.call(server.address, pool=PoolSettings(connections=2, streams_per_connection=4, wait_s=10.0))
        with closed_gate(service):
            calls = [asyncio.create_task(remote.get(Ask(number=number))) for number in range(40)]
            await until(lambda: service.entered == 8)
            await asyncio.sleep(0.05)
            assert service.entered == 8, "two connections, four at once on each"
        assert [(await call).number for call in calls] == list(range(40))
        assert seen(remote, server).connections == 2
        busy = strict.call(server.address, pool=PoolSettings(connections=1, streams_per_connection=4, wait_s=0.05))
        with closed_gate(service):
            calls = [asyncio.create_task(busy.get(Ask())) for _ in range(5)]
            with pytest.raises(Overloaded) as caught:
                await asyncio.gather(*calls)
        assert caught.value.code == "connections_full"
        await asyncio.gather(*calls, return_exceptions=True)
        # The ablation: a client that does not keep below the server's bound has calls that hang there in silence.
        careless = strict.call(server.address, pool=PoolSettings(connections=1, streams_per_connection=1000))
        service.entered = 0
        with closed_gate(service):
            calls = [asyncio.create_task(careless.get(Ask())) for _ in range(10)]
            await until(lambda: service.entered == 4)
            with call_scope(timeout_s=0.1), pytest.raises(DeadlineExceeded):
                await careless.hello(Ask())
        await asyncio.gather(*calls)
    finally:
        await strict.close()


@contextlib.asynccontextmanager
async def process(how: str = "open") -> AsyncGenerator[tuple[asyncio.subprocess.Process, str]]:
    """A server in a process of its own."""
    script = (
        "import asyncio\n"
        "from dougong.rpc import Server, trust_everyone\n"
        "from tests.rpc.example import Example\n"
        "async def main():\n"
        "    server = Server([Example('other')], authenticator=trust_everyone)\n"
        "    print(await server.start('127.0.0.1:0'), flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    made = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    try:
        assert made.stdout is not None
        yield made, (await made.stdout.readline()).decode().strip()
    finally:
        made.kill()
        await made.wait()


async def test_a_stopped_process_is_left_alone_once_it_is_suspect(grpc_lab: Lab) -> None:
    """SIGSTOP: its connection looks open, the kernel takes what is sent, and no answer ever comes."""
    async with process() as (other, address):
        remote = grpc_lab.call(address, pool=PoolSettings(suspect_after=2, check_s=0.2), patience_s=0.2)
        assert (await remote.change(Ask())).text == "other"
        assert other.pid is not None
        os.kill(other.pid, signal.SIGSTOP)
        codes = []
        for _ in range(4):
            with call_scope(timeout_s=0.3), pytest.raises((DeadlineExceeded, Unavailable)) as caught:
                await remote.change(Ask())
            codes.append(caught.value.code)
        assert codes[:2] == ["deadline_exceeded"] * 2, "the outcome is unknown"
        assert set(codes[2:]) <= {"connect_failed", "not_sent"}, "nothing more is sent to it"
        assert pool_stats(remote)[address].retired.get("broken") == 1
        os.kill(other.pid, signal.SIGCONT)
        await until_async(lambda: remote.change(Ask()))


async def until_async(call: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(Unavailable, DeadlineExceeded):
                await call()
                return


@contextlib.asynccontextmanager
async def raw_server(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncGenerator[str]:
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await serve(reader, writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()


async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    while await reader.read(1000):
        pass


async def talk_nonsense(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example ESMTP ready\r\n" * 10)
    await writer.drain()


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def http2(on_headers: Callable[[int], bytes], *, healthy: int = 1) -> Callable[..., Awaitable[None]]:
    """Just enough of HTTP/2 to answer calls with frames by hand; the first `healthy` are answered as unimplemented."""
    unimplemented = b"\x88" + b"\x00\x0ccontent-type\x10application/grpc" + b"\x00\x0bgrpc-status\x0212"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = healthy
        await reader.readexactly(24)
        writer.write(frame(SETTINGS, 0, 0))
        while True:
            head = await reader.readexactly(9)
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
            if kind in (SETTINGS, PING) and not flags & 1:
                writer.write(frame(kind, 1, 0, b"" if kind == SETTINGS else payload))
            elif kind == HEADERS and left:
                left -= 1
                writer.write(frame(HEADERS, 5, stream, unimplemented))
            elif kind == HEADERS:
                writer.write(on_headers(stream))
            await writer.drain()

    return serve


@pytest.mark.parametrize("serve", [hang, talk_nonsense])
async def test_an_instance_that_does_not_speak_costs_no_error(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> None:
    lab = Lab(GrpcTransport(connect_timeout_s=0.2))
    try:
        async with raw_server(serve) as dead:
            alive = await lab.serve(Example("alive"))
            remote = lab.call([dead, alive.address])
            answers = await asyncio.gather(*(remote.change(Ask()) for _ in range(20)))
            assert {answer.text for answer in answers} == {"alive"}
            assert all(isinstance(outcome, Answer) for outcome in await remote.place.many([Ask()] * 50))
            await lab.close()
    finally:
        await lab.close()


@pytest.mark.parametrize(
    "refuse",
    [
        lambda stream: frame(RST, 0, stream, struct.pack(">I", REFUSED_STREAM)),
        lambda stream: frame(GOAWAY, 0, 0, struct.pack(">II", max(stream - 2, 0), 0)),
    ],
    ids=["refused_stream", "goaway"],
)
async def test_what_http2_says_was_not_processed_is_repeated_even_if_not_idempotent(
    grpc_lab: Lab, refuse: Callable[[int], bytes]
) -> None:
    async with raw_server(http2(refuse)) as refusing:
        service = Example("alive")
        alive = await grpc_lab.serve(service)
        remote = grpc_lab.call([refusing, alive.address])
        for number in range(10):
            assert (await remote.change(Ask(text=f"u{number}"))).text == "alive"
        outcomes = await remote.place.many([Ask(text=f"b{number}") for number in range(50)])
        assert [outcome for outcome in outcomes if not isinstance(outcome, Answer)] == []
        assert len(service.items) == len(set(service.items)) == 60, "each once"


async def test_a_reset_for_another_reason_leaves_the_outcome_unknown(grpc_lab: Lab) -> None:
    """The ablation of the above: any other reset may have come after the work."""
    async with raw_server(http2(lambda stream: frame(RST, 0, stream, struct.pack(">I", 8)))) as resetting:
        remote = grpc_lab.call(resetting)
        with pytest.raises(Unavailable) as caught:
            await remote.change(Ask())
        assert caught.value.code == "connection_lost"


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        os.urandom(5000),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0) + b"\xff" * 5000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0) + frame(HEADERS, 4, 1, b"\xff\xff\xff\xff\xff"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b"\0\4\xff\xff\xff\xff"),
    ],
    ids=["http1", "noise", "frames", "headers", "settings"],
)
async def test_garbage_harms_nobody_else(grpc_lab: Lab, garbage: bytes) -> None:
    server = await grpc_lab.serve(Example())
    remote = grpc_lab.call(server.address)
    assert (await remote.look(Ask(text="before"))).text == "before"
    host, _, port = server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(garbage)
    writer.write_eof()
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(60):
            while await reader.read(1000):
                pass
    writer.transport.abort()
    assert (await remote.look(Ask(text="after"))).text == "after"
    assert seen(remote, server).connections_created == 1


async def test_a_storm_of_calls_makes_one_connection_and_one_stream(grpc_lab: Lab) -> None:
    server = await grpc_lab.serve(Example())
    remote = grpc_lab.call(server.address)
    await asyncio.gather(*(remote.get(Ask()) for _ in range(200)), *(remote.look(Ask()) for _ in range(200)))
    stats = seen(remote, server)
    assert (stats.connections_created, stats.streams_created, stats.checks) == (1, 1, 1)
    assert stats.reuse_share > 0.95


async def test_what_nobody_uses_is_closed(grpc_lab: Lab) -> None:
    server = await grpc_lab.serve(Example())
    remote = grpc_lab.call(server.address, pool=PoolSettings(idle_s=0.1))
    await remote.look(Ask())
    await until(lambda: seen(remote, server).connections == 0)
    assert seen(remote, server).retired == {"idle": 1}
    assert (await remote.look(Ask(text="again"))).text == "again"


async def test_a_server_that_is_not_serving_gets_no_calls(grpc_lab: Lab) -> None:
    sick, well = Example("sick"), Example("well")
    first, second = await grpc_lab.serve(sick), await grpc_lab.serve(well)
    assert first._listener is not None
    await first._listener.set_serving(False)
    remote = grpc_lab.call([first.address, second.address])
    assert {(await remote.change(Ask())).text for _ in range(10)} == {"well"}
    assert not sick.entered
    assert set(pool_stats(remote)[first.address].retired) <= {"unhealthy"}
