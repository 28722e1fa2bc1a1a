"""Somebody who serves is killed: how long until nobody sends him anything any more."""

from __future__ import annotations

import asyncio
import random as stdlib_random
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import msgspec

from dougong.errors import Error
from dougong.registry import Discovery, Registry, Resolver
from dougong.rpc import GrpcProbe, client, close_client
from shop.proof.rpc_pool.placing import Placing, order
from shop.proof.tcc.child import Child, child

__all__ = ["LONG_S", "Crash", "crash"]

_MODULE = "shop.proof.discovery"
_START_S = 30.0
_PAUSE_S = 0.002
LONG_S = 5.0
_SERVERS = 3


class Crash(msgspec.Struct, frozen=True):
    """What callers noticed."""

    out_s: float
    """From the kill until the dead one was in no table, and so was called no more."""
    calls: int
    failed: int
    attempts: int
    """Sent to the dead one."""


class _Counting:
    """A resolver that counts who was called in vain."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self.instances = resolver.instances
        self.last: dict[str, float] = {}
        self.attempts: dict[str, int] = {}

    def probe_failed(self, address: str) -> None:
        self.last[address] = time.monotonic()
        self.attempts[address] = self.attempts.get(address, 0) + 1
        self._resolver.probe_failed(address)


async def crash(registry: Registry, url: str, *, probed: bool = True) -> Crash:
    """Three servers with leases of 30 s, a caller, `kill -9` on one of them. Unless `probed`, the lease has to end."""
    discovery = Discovery(registry, probe=GrpcProbe() if probed else None)
    async with _servers(url) as servers:
        resolver = await discovery.resolve("proof.v1.Placing")
        while len(resolver.instances()) < _SERVERS:
            await asyncio.wait_for(resolver.changed(), _START_S)
        counting = _Counting(resolver)
        orders = client(Placing, counting, random=stdlib_random.Random(1))
        calling = _Calling(orders)
        task = asyncio.create_task(calling.run())
        try:
            await asyncio.sleep(0.5)
            address, dead = next(iter(servers.items()))
            await dead.kill()
            killed = time.monotonic()
            await _gone(resolver, address)
            out_s = time.monotonic() - killed
            await asyncio.sleep(0.2)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await close_client(orders)
            await discovery.close()
    last_s = counting.last.get(address, killed) - killed
    return Crash(max(out_s, last_s), calling.calls, calling.failed, counting.attempts.get(address, 0))


class _Calling:
    def __init__(self, orders: Placing) -> None:
        self._orders = orders
        self.calls = self.failed = 0

    async def run(self) -> None:
        while True:
            self.calls += 1
            try:
                await self._orders.place(order(self.calls))
            except Error:
                self.failed += 1
            await asyncio.sleep(_PAUSE_S)


async def _gone(resolver: Resolver, address: str) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(LONG_S):
            while any(instance.address == address for instance in resolver.instances()):
                await resolver.changed()


@asynccontextmanager
async def _servers(url: str) -> AsyncGenerator[dict[str, Child]]:
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(child(_MODULE, "serve", url)) for _ in range(_SERVERS)]
        yield {await one.hear(_START_S): one for one in started}
