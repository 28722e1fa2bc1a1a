"""Processes that keep a table of instances up to date and say how old each change was when it got there.

Whoever changes an instance writes down when it began to (the monotonic clock is one for all processes of a machine);
a change counts from then to the moment the table has it.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import threading
import time
from collections.abc import Callable

import msgspec

from dougong.registry import Discovery, Instance, Resolver, open_registry

__all__ = ["SERVICE", "Seen", "watch", "watch_zookeeper"]

SERVICE = "proof.v1.Watched"


class Seen(msgspec.Struct, frozen=True):
    """What a watcher has seen since it was last asked."""

    ages_s: list[float]
    size: int
    """Instances in its table."""
    cpu_s: float


class _Ages:
    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._ages: list[float] = []
        self._since = time.monotonic()
        self._cpu_s = time.process_time()

    def note(self, at: float) -> None:
        """Written at that moment; what is older than this watcher's last report is no change."""
        if at >= self._since:
            self._ages.append(time.monotonic() - at)

    def tell(self, size: int) -> None:
        ages, began_cpu_s, cpu_s = self._ages, self._cpu_s, time.process_time()
        self._ages, self._since, self._cpu_s = [], time.monotonic(), cpu_s  # first: who has the answer may go on
        self._say(msgspec.json.encode(Seen(ages, size, cpu_s - began_cpu_s)).decode())


async def watch(url: str, count: int, say: Callable[[str], None]) -> None:
    """Ours: until stdin ends; a line in, a line out."""
    registry = await open_registry(url)
    discovery = Discovery(registry)
    resolver = await discovery.resolve(SERVICE)
    while len(resolver.instances()) < count:
        await resolver.changed()
    ages = _Ages(say)
    say("ready")
    watching = asyncio.create_task(_follow(resolver, ages))
    try:
        while await asyncio.to_thread(sys.stdin.readline):
            ages.tell(len(resolver.instances()))
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await discovery.close()
        await registry.close()


async def _follow(resolver: Resolver, ages: _Ages) -> None:
    known: dict[str, Instance] = {instance.address: instance for instance in resolver.instances()}
    version = resolver.version
    while True:
        version = await resolver.changed(version)
        instances = resolver.instances()
        for instance in instances:
            if known.get(instance.address) is not instance:
                known[instance.address] = instance
                ages.note(float(instance.metadata["at"]))


def watch_zookeeper(hosts: str, path: str, count: int, say: Callable[[str], None]) -> None:
    """The baseline: a ChildrenWatch for who is there, a DataWatch for each, as kazoo's documentation has it."""
    from kazoo.client import KazooClient

    ages = _Ages(say)
    table: dict[str, Instance] = {}
    watched: set[str] = set()
    full = threading.Event()

    def written(name: str, data: bytes | None, _: object) -> bool | None:
        if data is None:
            table.pop(name, None)
            watched.discard(name)
            return False
        instance = table[name] = msgspec.json.decode(data, type=Instance)
        ages.note(float(instance.metadata["at"]))
        if len(table) >= count:
            full.set()
        return None

    def changed(children: list[str]) -> None:
        for name in [name for name in children if name not in watched]:
            watched.add(name)
            client.DataWatch(f"{path}/{name}", functools.partial(written, name))

    client = KazooClient(hosts=hosts)
    client.start()
    client.ChildrenWatch(path, changed)
    full.wait(60)
    say("ready")
    while sys.stdin.readline():
        ages.tell(len(table))
    os._exit(0)  # nobody waits for a session to be closed in good order
