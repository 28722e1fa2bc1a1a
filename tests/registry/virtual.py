"""Discovery in virtual time: seconds cost nothing, and a seed decides who runs first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

from dougong.clock import Clock
from dougong.errors import Unavailable
from dougong.registry import Snapshot
from dougong.simulation import NodeClock, VirtualLoop

T = TypeVar("T")


def run(tell: Callable[[Clock], Awaitable[T]], seed: int = 1) -> T:
    """Tell a story on a virtual loop, with a clock that shows its time."""
    loop = VirtualLoop(Random(seed))
    try:
        return loop.run_until_complete(tell(NodeClock(loop.time)))
    finally:
        loop.close()


class Town:
    """Who lives where, and how long it takes to be told. A probe of those in `hung` never comes back."""

    def __init__(self, *living: str, delay_s: float = 0.01) -> None:
        self.living = set(living)
        self.hung: set[str] = set()
        self.delay_s = delay_s
        self.probes: list[tuple[float, str]] = []
        self.at_once = 0
        self.at_once_max = 0

    async def probe(self, address: str) -> bool:
        self.probes.append((asyncio.get_running_loop().time(), address))
        self.at_once += 1
        self.at_once_max = max(self.at_once_max, self.at_once)
        try:
            await asyncio.sleep(3600 if address in self.hung else self.delay_s)
            return address in self.living
        finally:
            self.at_once -= 1


class KeptSnapshots:
    """`Snapshots` in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, Snapshot] = {}
        self.saves = 0
        self.broken = False

    async def load(self, service: str) -> Snapshot | None:
        if self.broken:
            raise Unavailable("snapshot nowhere is not used: it is broken", code="bad_snapshot")
        return self.kept.get(service)

    async def save(self, snapshot: Snapshot) -> None:
        if self.broken:
            raise Unavailable("disk full", code="snapshot_not_saved")
        self.saves += 1
        self.kept[snapshot.service] = snapshot
