"""What clients in other languages see: health, reflection, standard status details."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from typing import cast

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.rpc.conftest import Lab
from tests.rpc.example import Answer, Ask, Example

from dougong.contract import Service, codec, rpc
from dougong.errors import Conflict, Internal, Unavailable
from dougong.rpc import GrpcTransport, Metadata, Server, trust_everyone
from dougong.rpc._grpc_connection import GrpcConnection
from dougong.rpc._transport import Lost
from dougong.rpc.status import from_status


async def test_health_follows_the_drain(grpc_lab: Lab) -> None:
    server = await grpc_lab.serve(Example())
    async with grpc.aio.insecure_channel(server.address) as channel:
        checks = health_pb2_grpc.HealthStub(channel)
        for name in ("", "test.v1.Example"):
            answer = await checks.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError):
            await checks.Check(health_pb2.HealthCheckRequest(service="unknown"))
        assert await server.drain(1)
        answer = await checks.Check(health_pb2.HealthCheckRequest(service="test.v1.Example"))
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_reflection_lists_services_and_describes_them(grpc_lab: Lab) -> None:
    server = await grpc_lab.serve(Example())
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services="*"))
        listed = {service.name for service in (await call.read()).list_services_response.service}
        assert {"test.v1.Example", "grpc.health.v1.Health"} <= listed
        await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol="test.v1.Example"))
        files = (await call.read()).file_descriptor_response.file_descriptor_proto
        assert any(b"PlaceBatch" in file for file in files)
        await call.done_writing()


async def test_errors_carry_the_standard_details(grpc_lab: Lab) -> None:
    server = await grpc_lab.serve(Example())
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = channel.unary_unary("/test.v1.Example/Fail", None, None)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(codec(Ask).encode(Ask(text="overloaded")))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == "what, where, remedy"
    trailers = cast("Iterable[tuple[str, bytes]]", caught.value.trailing_metadata())
    details = dict(trailers)["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(details)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(retry)
    assert (info.reason, info.domain, dict(info.metadata)) == ("its_code", "dougong", {"sku": "kettle"})
    assert retry.retry_delay.ToMilliseconds() == 1500


class Wordy(Service, package="test.v1"):
    @rpc()
    async def talk(self, request: Ask) -> Answer:
        error = Conflict("ö" * 100_000, code="wordy")
        error.fields.update({f"field_{i}": "x" * 500 for i in range(50)})
        raise error


async def test_long_errors_get_through(grpc_lab: Lab) -> None:
    server = await grpc_lab.serve(Wordy())
    connection = grpc_lab.transport.connect(server.address)
    with pytest.raises(Conflict) as caught:
        await connection.unary("/test.v1.Wordy/Talk", b"", Metadata(), 5)
    assert caught.value.code == "wordy"
    await connection.close()


async def test_unknown_methods(grpc_lab: Lab) -> None:
    server = await grpc_lab.serve(Example())
    connection = grpc_lab.transport.connect(server.address)
    with pytest.raises(Internal) as caught:
        await connection.unary("/test.v1.Example/Nonsense", b"", Metadata(), 5)
    assert caught.value.code == "unimplemented"
    await connection.close()


async def test_an_address_is_taken_once(lab: Lab) -> None:
    server = await lab.serve(Example())
    with pytest.raises(Unavailable) as caught:
        await Server([Example()], transport=lab.transport).start(server.address)
    assert caught.value.code == "address_taken"


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_a_strangers_status_has_a_family(code: grpc.StatusCode) -> None:
    error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "no details of ours", None)
    mapped = from_status(error, "somewhere:1")
    assert "somewhere:1" in str(mapped) or "no details" in str(mapped)
    garbage = grpc.aio.Metadata(("grpc-status-details-bin", b"\xff\xff\xff"))
    assert type(from_status(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), garbage, None, None), "x")) is type(mapped)


async def test_a_killed_server_process_is_noticed_at_once_and_back_at_once(grpc_lab: Lab) -> None:
    """A real process, kill -9 in the middle of a call, restarted on the same port."""
    script = (
        "import asyncio, sys\n"
        "from dougong.rpc import Server, trust_everyone\n"
        "from tests.rpc.example import Example\n"
        "async def main():\n"
        "    service = Example()\n"
        "    if sys.argv[2] == 'stuck': service.gate.clear()\n"
        "    server = Server([service], authenticator=trust_everyone)\n"
        "    print(await server.start('127.0.0.1:' + sys.argv[1]), flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )

    async def start(port: str, how: str) -> tuple[asyncio.subprocess.Process, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, port, how, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        return process, (await process.stdout.readline()).decode().strip()

    process, address = await start("0", "stuck")
    try:
        remote = grpc_lab.call(address)
        change = asyncio.create_task(remote.change(Ask()))
        batch = asyncio.create_task(remote.place.many([Ask(), Ask()]))
        look = asyncio.create_task(remote.look.many([Ask(text="again")]))
        await asyncio.sleep(0.3)
        process.kill()
        with pytest.raises(Unavailable) as caught:
            await change
        assert caught.value.code == "connection_lost"
        assert {getattr(outcome, "code", "ok") for outcome in await batch} == {"connection_lost"}
        await process.wait()
        process, again = await start(address.rpartition(":")[2], "open")
        assert again == address
        (looked,) = await look
        assert getattr(looked, "text", looked) == "again", "idempotent: repeated when the server was back"
        assert (await remote.get(Ask(text="back"))).text == "back"
    finally:
        process.kill()
        await process.wait()


async def test_a_channel_that_took_the_place_of_another_is_watched_too() -> None:
    """Its server's goodbye would otherwise be noticed by the calls that it breaks."""
    transport = GrpcTransport()
    goodbyes = 0

    def left() -> None:
        nonlocal goodbyes
        goodbyes += 1

    address = "127.0.0.1:0"
    connection: GrpcConnection | None = None
    for generation in range(1, 3):
        server = Server([Example()], authenticator=trust_everyone, transport=transport)
        address = await server.start(address)
        if connection is None:
            made = transport.connect(address)
            assert isinstance(made, GrpcConnection)
            connection = made
            connection.on_leaving = left
            await connection.check(5.0)
        path, metadata = "/test.v1.Example/Get", Metadata(authorization="Bearer me")
        await connection.unary(path, codec(Ask).encode(Ask()), metadata, 10.0)
        assert goodbyes == generation - 1
        await server.stop(0)
        async with asyncio.timeout(60):
            while goodbyes < generation:
                await asyncio.sleep(0.002)
        with pytest.raises(Lost):  # the channel fails, and is replaced when somebody serves there again
            await connection.unary(path, b"", metadata, 10.0)
    assert connection is not None
    await connection.close()
    assert goodbyes == 2


async def test_frequent_keepalives_are_welcome() -> None:
    """A server with default settings answers the fourth ping without data with GOAWAY too_many_pings.

    gRPC sends at most one a second, hence the wait.
    """
    transport = GrpcTransport(keepalive_s=0.1)
    server = Server([Example()], authenticator=trust_everyone, transport=transport)
    address = await server.start("127.0.0.1:0")
    connection = transport.connect(address)
    try:
        stream = await connection.stream("/test.v1.Example/Both", Metadata(), None)
        for pause_s in (5.5, 0):
            await stream.send(codec(Ask).encode(Ask(number=4)))
            assert codec(Answer).decode(await stream.receive() or b"").number == 8
            await asyncio.sleep(pause_s)
    finally:
        await connection.close()
        await server.stop(0)
