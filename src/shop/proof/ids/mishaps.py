"""Four things that happen to minters, made to happen to any: what it mints meanwhile is kept, to be counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from dougong.clock import SystemClock
from dougong.errors import Overloaded, Unavailable

__all__ = ["MISHAPS", "Maker", "Makers", "WallClock", "duplicates"]

_PER_STEP = 20
_STEPS = 100
_PATIENCE_MS = 2000


class WallClock:
    """The machine's, except that its wall clock stands until it is moved."""

    def __init__(self) -> None:
        self._system = SystemClock()
        self._now_us = self._system.now_us()

    def now_us(self) -> int:
        return self._now_us

    def monotonic(self) -> float:
        return self._system.monotonic()

    def move_ms(self, ms: int) -> None:
        self._now_us += ms * 1000


class Maker(Protocol):
    """A running minter."""

    def one(self) -> int:
        """The next id, or an `Error`."""


class Makers(Protocol):
    """How minters of one kind come and go. All of them mint for the same shard, by the same clock."""

    clock: WallClock

    async def begin(self) -> Maker | None:
        """One more process; None when it may not mint because another one does."""

    async def kill(self, maker: Maker) -> None:
        """The process is gone, without a word."""


async def rollback(makers: Makers) -> list[int]:
    """The clock is set back by 50 ms in the middle."""
    maker = await _begun(makers)
    ids = await _mint(makers, maker)
    makers.clock.move_ms(-50)
    return ids + await _mint(makers, maker)


async def overflow(makers: Makers) -> list[int]:
    """40,000 ids are wanted within a millisecond that holds 16,384."""
    maker = await _begun(makers)
    return [await _one(makers, maker) for _ in range(40_000)]


async def restart(makers: Makers) -> list[int]:
    """The process is killed, and its next life finds a clock that was set back by 50 ms."""
    maker = await _begun(makers)
    ids = await _mint(makers, maker)
    await makers.kill(maker)
    makers.clock.move_ms(-50)
    return ids + await _mint(makers, await _begun(makers))


async def two_minters(makers: Makers) -> list[int]:
    """Two processes are told to mint for the same shard at the same time."""
    both = [await makers.begin(), await makers.begin()]
    there = [maker for maker in both if maker is not None]
    return [number for _ in range(_STEPS) for maker in there for number in await _mint(makers, maker, 1)]


MISHAPS: dict[str, Callable[[Makers], Awaitable[list[int]]]] = {
    "rollback": rollback,
    "overflow": overflow,
    "restart": restart,
    "two_minters": two_minters,
}


def duplicates(ids: list[int]) -> int:
    """How many of these ids were there already."""
    return len(ids) - len(set(ids))


async def _begun(makers: Makers) -> Maker:
    maker = await makers.begin()
    assert maker is not None, "nobody else mints"
    return maker


async def _mint(makers: Makers, maker: Maker, steps: int = _STEPS) -> list[int]:
    """Some ids each millisecond, or, of two that take turns, in the same one."""
    ids: list[int] = []
    for _ in range(steps):
        if steps > 1:
            makers.clock.move_ms(1)
        ids += [await _one(makers, maker) for _ in range(_PER_STEP)]
    return ids


async def _one(makers: Makers, maker: Maker) -> int:
    """Whoever is refused asks again a millisecond later, by both clocks: on a busy machine a lease may have ended."""
    for _ in range(_PATIENCE_MS):
        try:
            return maker.one()
        except (Overloaded, Unavailable):
            makers.clock.move_ms(1)
            await asyncio.sleep(0.001)
    return maker.one()
