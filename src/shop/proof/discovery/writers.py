"""Who changes instances: the same changes on both sides, on the same schedule."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

import msgspec

from dougong.registry import Instance, Registry, instance_key
from shop.proof.discovery.watchers import SERVICE

if TYPE_CHECKING:
    from kazoo.client import KazooClient

__all__ = ["COUNT", "EtcdWriter", "Writer", "ZooKeeperWriter", "change", "gap_ms"]

COUNT = 200
PATH = "/services/" + SERVICE
_EVERY_S = 0.01
_GAP_S_MAX = 60.0


def _instance(number: int) -> Instance:
    return Instance(
        service=SERVICE,
        address=f"10.1.{number // 250}.{number % 250}:8080",
        app="watched",
        id=f"watched-{number}",
        version="1.4.2",
        zone="zone-a",
        metadata={"at": repr(time.monotonic()), "protocol": "grpc"},
    )


class Writer(Protocol):
    async def write(self, number: int) -> None:
        """Put down the instance of that number, new or not."""

    async def remove(self, number: int) -> None:
        """Take it away."""


class EtcdWriter:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def write(self, number: int) -> None:
        instance = _instance(number)
        await self._registry.put(instance_key(instance), msgspec.json.encode(instance))

    async def remove(self, number: int) -> None:
        await self._registry.delete(instance_key(_instance(number)))


class ZooKeeperWriter:
    def __init__(self, client: KazooClient) -> None:
        self._client = client

    async def write(self, number: int) -> None:
        await asyncio.to_thread(self._write, number)

    async def remove(self, number: int) -> None:
        await asyncio.to_thread(self._client.delete, f"{PATH}/{_instance(number).address}")

    def _write(self, number: int) -> None:
        from kazoo.exceptions import NoNodeError

        instance = _instance(number)
        path, data = f"{PATH}/{instance.address}", msgspec.json.encode(instance)
        try:
            self._client.set(path, data)
        except NoNodeError:
            self._client.create(path, data, makepath=True)


async def change(writer: Writer, *, rate: float, seconds: float) -> int:
    """Change one instance after the other, on schedule; every fourth comes new. How many changes that were."""
    loop = asyncio.get_running_loop()
    started, changes = loop.time(), int(rate * seconds)
    for turn in range(changes):
        await asyncio.sleep(max(0.0, started + turn / rate - loop.time()))
        new = COUNT + turn
        await writer.write(turn % COUNT if turn % 4 else new)
        if turn >= 4 and not turn % 4:
            await writer.remove(new - 4)
    return changes


async def gap_ms(write: Callable[[], Awaitable[object]], kill: Callable[[], None]) -> float:
    """From the moment `kill` killed to the end of the first write begun after it that was carried out."""
    await write()
    killed = time.monotonic()
    await asyncio.to_thread(kill)
    while time.monotonic() < killed + _GAP_S_MAX:
        try:
            await write()
        except Exception:  # noqa: BLE001 (whatever a client says when it cannot write)
            await asyncio.sleep(_EVERY_S)
        else:
            return (time.monotonic() - killed) * 1000
    return _GAP_S_MAX * 1000
