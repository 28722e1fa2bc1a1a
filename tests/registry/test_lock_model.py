"""Who holds a lock, in worlds where clients freeze for longer than their leases: told from seeds, in virtual time."""

from __future__ import annotations

import asyncio
import random

from hypothesis import given
from hypothesis import strategies as st

from dougong.errors import Conflict, Unavailable
from dougong.registry import Fence, Held, Lock, MemoryRegistry
from dougong.simulation import VirtualLoop

TTL_S = 3.0
CLIENTS = 3
ROUNDS = 4


class LoopClock:
    """The loop's virtual time."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def now_us(self) -> int:
        return round(self._loop.time() * 1e6)

    def monotonic(self) -> float:
        return self._loop.time()


class Freezer(MemoryRegistry):
    """Renewals of frozen clients do not get through; now and then the line is cut for anybody."""

    def __init__(self, clock: LoopClock, seeded: random.Random) -> None:
        super().__init__(clock)
        self.frozen: set[int] = set()
        self._seeded = seeded

    async def keep_alive(self, lease: int) -> float:
        await asyncio.sleep(self._seeded.uniform(0, 0.3))
        if lease in self.frozen or self._seeded.random() < 0.1:
            raise Unavailable("no answer")
        return await super().keep_alive(lease)


class Resource:
    """What the lock protects. Remembers who wrote, and who should not have been able to."""

    def __init__(self, *, fenced: bool) -> None:
        self._fence = Fence() if fenced else None
        self.newest = 0
        self.stale: list[int] = []
        self.refused = 0

    def write(self, fence: int) -> None:
        if self._fence is not None:
            try:
                self._fence.check(fence)
            except Conflict:
                self.refused += 1
                return
        if fence < self.newest:
            self.stale.append(fence)
        self.newest = max(self.newest, fence)


class Told:
    def __init__(self, *, fenced: bool) -> None:
        self.resource = Resource(fenced=fenced)
        self.holders: dict[int, int] = {}
        self.at_once: list[tuple[int, int]] = []


def tell(seed: int, *, fenced: bool) -> Told:
    seeded = random.Random(seed)
    loop = VirtualLoop(seeded)
    told = Told(fenced=fenced)

    async def client(name: int, registry: Freezer, clock: LoopClock, now: dict[int, Held]) -> None:
        for _ in range(ROUNDS):
            await asyncio.sleep(seeded.uniform(0, 2))
            async with Lock(registry, "x", ttl_s=TTL_S, clock=clock, random=seeded).hold() as held:
                assert told.holders.setdefault(held.fence, name) == name, "two holders with one fence"
                now[name] = held
                told.at_once += [(name, other) for other in now if other != name and not now[other].lost]
                if held.lost:
                    continue
                lease = int(held.key.rpartition("/")[2], 16)
                if seeded.random() < 0.5:  # we have looked, it is ours; and now we freeze before we write
                    registry.frozen.add(lease)
                    await asyncio.sleep(seeded.uniform(0, 3 * TTL_S))
                told.resource.write(held.fence)
                registry.frozen.discard(lease)
            del now[name]

    async def world() -> None:
        clock = LoopClock(loop)
        registry = Freezer(clock, seeded)
        now: dict[int, Held] = {}
        async with asyncio.TaskGroup() as group:
            for name in range(CLIENTS):
                group.create_task(client(name, registry, clock, now))
        assert (await registry.list("/locks/")).items == ()
        await registry.close()

    try:
        loop.run_until_complete(world())
    finally:
        loop.close()
    return told


@given(st.integers(0, 2**32))
def test_one_holder_at_a_time_and_no_stale_write(seed: int) -> None:
    told = tell(seed, fenced=True)
    assert told.at_once == [], "two believe to hold the lock"
    assert told.resource.stale == []
    assert len(told.holders) == CLIENTS * ROUNDS


def test_without_the_fence_a_stalled_holders_write_goes_through() -> None:
    """The ablation: the same worlds, and nobody checks. Where the fence refuses something, the write is stale."""
    refused = [tell(seed, fenced=True).resource.refused for seed in range(30)]
    stale = [len(tell(seed, fenced=False).resource.stale) for seed in range(30)]
    assert sum(refused) > 0
    assert stale == refused
