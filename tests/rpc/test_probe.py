"""The prober against real servers, and against what is none."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import grpc.aio
import msgspec
import pytest
from tests.rpc.certificates import Authority
from tests.rpc.example import Ask, Example

from dougong.contract import describe
from dougong.errors import Unavailable
from dougong.evidence.engines import free_port
from dougong.registry import Discovery, Instance, MemoryRegistry, instance_key
from dougong.rpc import GrpcProbe, GrpcTransport, Server, client, close_client, trust_everyone


async def test_who_serves_is_alive_until_it_drains_or_stops() -> None:
    server = Server([Example()])
    address = await server.start()
    probe = GrpcProbe()
    assert await probe.probe(address)
    await server.drain(0.1)
    assert not await probe.probe(address)
    await server.stop()
    assert not await probe.probe(address)


async def test_a_server_without_health_checks_answers_all_the_same() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    assert await GrpcProbe().probe(f"127.0.0.1:{port}")
    await server.stop(0)


async def test_nobody_there_is_told_at_once_and_one_that_hangs_within_the_deadline() -> None:
    assert not await GrpcProbe().probe(f"127.0.0.1:{free_port()}")
    with socket.socket() as silent:  # takes connections and says nothing, as a stopped process does
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        async with asyncio.timeout(30.0):
            assert not await GrpcProbe(timeout_s=0.1).probe(f"127.0.0.1:{silent.getsockname()[1]}")


async def test_something_that_is_no_grpc_is_not_alive() -> None:
    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(16)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(http, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert not await GrpcProbe().probe(f"127.0.0.1:{port}")
    assert not await GrpcProbe().probe("no such host:1")
    server.close()
    await server.wait_closed()


async def test_cancelled_it_lets_go() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        asking = asyncio.create_task(GrpcProbe(timeout_s=60.0).probe(f"127.0.0.1:{silent.getsockname()[1]}"))
        await asyncio.sleep(0.05)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert asking.cancelled()


async def test_a_crash_behind_a_lease_is_found_by_calls_and_a_restart_by_probes() -> None:
    """Real servers, real probes, and a registry that believes in the dead one for an hour."""
    registry = MemoryRegistry()
    lease = (await registry.grant(3600.0)).id
    port = free_port()
    servers = [
        Server([Example("a")], authenticator=trust_everyone),
        Server([Example("b")], authenticator=trust_everyone),
    ]
    addresses = [await servers[0].start(), await servers[1].start(f"127.0.0.1:{port}")]
    name = describe(Example).name
    for address in addresses:
        instance = Instance(name, address)
        await registry.put(instance_key(instance), msgspec.json.encode(instance), lease=lease)
    discovery = Discovery(registry, probe=GrpcProbe(timeout_s=5.0), probe_s=5.0)
    resolver = await discovery.resolve(name)
    example = client(Example, resolver)
    assert len(resolver.instances()) == 2

    await servers[1].stop(0)
    async with asyncio.timeout(60.0):
        while len(resolver.instances()) == 2:
            await example.get(Ask(text="on"))  # none of them fails: who is not there is passed over
            await asyncio.sleep(0)
    assert [s.address for s in resolver.why().excluded] == [addresses[1]]
    assert {(await example.change(Ask(text="x"))).text for _ in range(20)} == {"a"}

    again = Server([Example("b")], authenticator=trust_everyone)
    await again.start(f"127.0.0.1:{port}")
    async with asyncio.timeout(60.0):
        while len(resolver.instances()) == 1:
            await resolver.changed()
    async with asyncio.timeout(60.0):
        while (await example.change(Ask(text="x"))).text != "b":
            await asyncio.sleep(0.01)
    await close_client(example)
    await discovery.close()
    for server in (servers[0], again):
        await server.stop()
    await registry.close()


async def test_servers_with_certificates_live_for_who_has_one_too(tmp_path: Path) -> None:
    files = Authority(tmp_path).sign("process")
    server = Server([Example()], transport=GrpcTransport(tls=files))
    address = await server.start()
    assert await GrpcProbe(tls=files).probe(address)
    named = msgspec.structs.replace(files, server_name="localhost")
    assert await GrpcProbe(tls=named).probe(address)
    assert not await GrpcProbe(tls=msgspec.structs.replace(files, server_name="elsewhere")).probe(address)
    assert not await GrpcProbe().probe(address)
    await server.stop()
    with pytest.raises(Unavailable, match="tls_files"):
        await GrpcProbe(tls=msgspec.structs.replace(files, key=str(tmp_path / "gone"))).probe(address)
