"""Servers and clients on both transports, closed whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.rpc.example import Example

from dougong.contract import Service
from dougong.rpc import GrpcTransport, MemoryTransport, Server, Transport, client, close_client, trust_everyone


class Lab:
    """Starts servers and clients of one transport and cleans up after the test."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._servers: list[Server] = []
        self._clients: list[Service] = []

    async def serve(self, service: Service, address: str = "127.0.0.1:0", **options: Any) -> Server:
        options.setdefault("authenticator", trust_everyone)
        server = Server([service], transport=self.transport, **options)
        await server.start(address)
        self._servers.append(server)
        return server

    def call(self, instances: Any, **options: Any) -> Example:
        made = client(Example, instances, transport=self.transport, **options)
        self._clients.append(made)
        return made

    async def close(self) -> None:
        for made in self._clients:
            await close_client(made)
        for server in self._servers:
            await server.stop(0)


@pytest.fixture(params=["grpc", "memory"])
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    lab = Lab(GrpcTransport() if request.param == "grpc" else MemoryTransport())
    yield lab
    await lab.close()


@pytest.fixture
async def grpc_lab() -> AsyncIterator[Lab]:
    lab = Lab(GrpcTransport())
    yield lab
    await lab.close()


@pytest.fixture
async def memory_lab() -> AsyncIterator[Lab]:
    lab = Lab(MemoryTransport())
    yield lab
    await lab.close()


async def until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Let the loop turn until `condition` holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.002)


@contextlib.contextmanager
def closed_gate(service: Example) -> Any:
    """Calls enter the service and stay inside."""
    service.gate.clear()
    try:
        yield
    finally:
        service.gate.set()
