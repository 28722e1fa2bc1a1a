"""The registry of the story: a node that others reach over the network, with everything that befalls registries.

What it keeps outlives its process, as on a disk. It hangs, is slow, forgets its past while somebody is about to watch,
loses leases behind their owners' backs, one or many at a time, and in some worlds comes back with nothing at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from dougong.contract import Message, Service, rpc
from dougong.errors import Conflict
from dougong.registry import Change, ChangeKind, Compacted, KeyValue, Lease, Listing, MemoryRegistry
from dougong.registry.keyspace import KeySpace
from dougong.rpc import Server, client
from dougong.simulation.node import Process
from dougong.simulation.world import World

__all__ = ["NODE", "Place", "RemoteRegistry"]

NODE = "registry"
_ADDRESS = f"{NODE}:1"
_TROUBLE_EVERY_S = 5.0
_LISTED_TOO_EARLY = 0.3
"""Share of watches before which time passes and the past is forgotten."""


class Ttl(Message):
    seconds: float = 0.0


class Held(Message):
    id: int = 0
    ttl_s: float = 0.0


class Entry(Message):
    key: str = ""
    value: bytes = b""
    lease: int = 0
    create_revision: int = 0
    mod_revision: int = 0


class Entries(Message):
    items: tuple[Entry, ...] = ()
    revision: int = 0


class Since(Message):
    prefix: str = ""
    revision: int = 0


class Event(Message):
    deleted: bool = False
    key: str = ""
    value: bytes = b""


class Events(Message):
    """All of one revision."""

    revision: int = 0
    events: tuple[Event, ...] = ()


class Revision(Message):
    revision: int = 0


class Keys(Service, package="story.v1"):
    """`Registry` on the wire."""

    def __init__(self, place: Place, registry: MemoryRegistry) -> None:
        self._place = place
        self._registry = registry

    @rpc(public=True, timeout_s=5.0)
    async def grant(self, request: Ttl) -> Held:
        await self._place.passed()
        lease = await self._registry.grant(request.seconds)
        return Held(id=lease.id, ttl_s=lease.ttl_s)

    @rpc(public=True, timeout_s=5.0, idempotent=True)
    async def keep_alive(self, request: Held) -> Ttl:
        await self._place.passed()
        return Ttl(seconds=await self._registry.keep_alive(request.id))

    @rpc(public=True, timeout_s=5.0)
    async def revoke(self, request: Held) -> Revision:
        await self._place.passed()
        await self._registry.revoke(request.id)
        return Revision()

    @rpc(public=True, timeout_s=5.0)
    async def put(self, request: Entry) -> Revision:
        await self._place.passed()
        return Revision(revision=await self._registry.put(request.key, request.value, lease=request.lease))

    @rpc(public=True, timeout_s=5.0)
    async def create(self, request: Entry) -> Revision:
        await self._place.passed()
        return Revision(revision=await self._registry.create(request.key, request.value, lease=request.lease))

    @rpc(public=True, timeout_s=5.0)
    async def delete(self, request: Entry) -> Revision:
        await self._place.passed()
        return Revision(revision=int(await self._registry.delete(request.key)))

    @rpc(public=True, timeout_s=5.0, idempotent=True)
    async def list(self, request: Since) -> Entries:
        await self._place.passed()
        listing = await self._registry.list(request.prefix)
        items = tuple(
            Entry(
                key=item.key,
                value=item.value,
                lease=item.lease,
                create_revision=item.create_revision,
                mod_revision=item.mod_revision,
            )
            for item in listing.items
        )
        return Entries(items=items, revision=listing.revision)

    @rpc(public=True)
    async def watch(self, request: Since) -> AsyncIterator[Events]:
        await self._place.passed()
        await self._place.before_watch()
        async for changes in self._registry.watch(request.prefix, request.revision):
            await self._place.passed()
            events = tuple(Event(deleted=c.kind is ChangeKind.DELETE, key=c.key, value=c.value) for c in changes)
            yield Events(revision=changes[0].revision, events=events)


class RemoteRegistry:
    """A `Registry`: the one on the other node."""

    def __init__(self, process: Process) -> None:
        self._keys = client(Keys, _ADDRESS, transport=process.transport, random=process.random, patience_s=0.0)

    async def grant(self, ttl_s: float) -> Lease:
        held = await self._keys.grant(Ttl(seconds=ttl_s))
        return Lease(held.id, held.ttl_s)

    async def keep_alive(self, lease: int) -> float:
        return (await self._keys.keep_alive(Held(id=lease))).seconds

    async def revoke(self, lease: int) -> None:
        await self._keys.revoke(Held(id=lease))

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        return (await self._keys.put(Entry(key=key, value=value, lease=lease))).revision

    async def create(self, key: str, value: bytes, *, lease: int = 0) -> int:
        return (await self._keys.create(Entry(key=key, value=value, lease=lease))).revision

    async def delete(self, key: str) -> bool:
        return bool((await self._keys.delete(Entry(key=key))).revision)

    async def list(self, prefix: str) -> Listing:
        found = await self._keys.list(Since(prefix=prefix))
        items = (KeyValue(e.key, e.value, e.create_revision, e.mod_revision, e.lease) for e in found.items)
        return Listing(tuple(items), found.revision)

    async def watch(self, prefix: str, from_revision: int) -> AsyncIterator[Sequence[Change]]:
        try:
            async for events in self._keys.watch(Since(prefix=prefix, revision=from_revision)):
                yield tuple(
                    Change(ChangeKind.DELETE if e.deleted else ChangeKind.PUT, e.key, events.revision, e.value)
                    for e in events.events
                )
        except Conflict as error:
            if error.code != "compacted":
                raise
            raise Compacted(from_revision, int(error.fields["compacted"])) from None

    async def compact(self, revision: int) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        pass


class Instances(Protocol):
    """Those that may fail together with their leases."""

    def crash(self, back_after_s: float) -> None: ...


class Place:
    """The node, its disk, and its troubles."""

    def __init__(self, world: World, instances: Sequence[Instances]) -> None:
        self._world = world
        self._instances = instances
        self._keys = KeySpace()
        self._registry: MemoryRegistry | None = None
        self._hung: asyncio.Event | None = None
        """Set when it goes on."""
        self._slow_s = 0.0
        self._watches = world.faults.source("watches", NODE)
        self._draw = world.stream("registry")
        self.replaced = False
        """Whether it ever came back empty."""

    def start(self) -> asyncio.Task[None]:
        """Serve; what befalls it goes on until the task is cancelled."""
        self._world.node(NODE).start(self._serve)
        return self._world.spawn(self._trouble())

    async def _serve(self, process: Process) -> None:
        registry = MemoryRegistry(process.clock)
        registry._keys = self._keys
        self._registry = registry
        for held in self._keys._leases.values():  # as a new leader does
            held.deadline = process.clock.monotonic() + held.ttl_s
        await Server([Keys(self, registry)], transport=process.transport).start(_ADDRESS)

    async def passed(self) -> None:
        """Wait as long as everybody has to who wants something."""
        if self._slow_s:
            await asyncio.sleep(self._slow_s * self._draw.random())
        while self._hung is not None:
            await self._hung.wait()

    async def before_watch(self) -> None:
        """Whoever listed a moment ago and is about to watch may be late."""
        struck = self._watches.strike(((_LISTED_TOO_EARLY, "listed too early"),))
        if struck is not None and self._registry is not None:
            await asyncio.sleep(struck[1] * 3)
            await self._registry.compact(self._keys.revision)

    def heal(self) -> None:
        """All is well again."""
        self._slow_s = 0.0
        self._go_on()

    def _go_on(self) -> None:
        hung, self._hung = self._hung, None
        if hung is not None:
            hung.set()

    async def _trouble(self) -> None:
        source = self._world.faults.source("registry", NODE)
        draw = source.random
        kinds = ["hangs", "slow", "lost one", "lost many", "lost all", "empty", "rack"]
        kinds = draw.sample(kinds, draw.randint(0, 5))
        while kinds:
            wait_s, kind, how = draw.expovariate(1 / _TROUBLE_EVERY_S), draw.choice(kinds), draw.random()
            await asyncio.sleep(wait_s)
            if not source.allow(f"{kind} {how:.3f}"):
                continue
            match kind:
                case "hangs":
                    self._hung = asyncio.Event()
                    await asyncio.sleep(how * 8)
                    self._go_on()
                case "slow":
                    self._slow_s = how * 2
                    await asyncio.sleep(4)
                    self._slow_s = 0.0
                case "empty":
                    self.replaced = True
                    node = self._world.node(NODE)
                    node.crash()
                    leases = self._keys._last_lease
                    self._keys = KeySpace()
                    self._keys._last_lease = leases  # ids are random in etcd, so that no old one means a new one
                    await asyncio.sleep(how * 4)
                    if not node.up:
                        node.restart()
                case "rack":  # several machines at once, and the registry hears of it first
                    failing = [each for each in self._instances if draw.random() < 0.6]
                    for each in failing:
                        each.crash(1 + how * 4)
                    self._lose(1.0, how, dead=True)
                case _:
                    self._lose({"lost one": 0.0, "lost many": 0.3 + how / 2}.get(kind, 1.0), how)

    def _lose(self, share: float, how: float, *, dead: bool = False) -> None:
        """Leases end behind the backs of their owners, all at one revision; `dead`: of those that have died."""
        keys = self._keys
        held = [lease for lease, held in keys._leases.items() if held.keys]
        count = min(len(held), max(1, round(share * len(held))))
        first = int(how * len(held))
        ending = [held[(first + each) % len(held)] for each in range(count)]
        if dead:
            ending = [lease for lease in held if not any(self._up(key) for key in keys._leases[lease].keys)]
        changes: list[Change] = []
        for lease in ending:
            changes += [keys._remove(key) for key in sorted(keys._leases[lease].keys)]
            del keys._leases[lease]
        if changes:
            keys._record(changes)
        if self._registry is not None and not self._registry._closed:
            self._registry._wake()

    def _up(self, key: str) -> bool:
        return self._world.node(key.rpartition("/")[2].partition(":")[0]).up
