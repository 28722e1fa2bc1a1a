"""Evening out what processes of one port have: the kernel deals connections out evenly, but they live long.

After a restart the old processes are full and the new one is empty. So each says in shared memory how many it has, and
who has far more than the others asks some of the youngest to come again.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import msgspec

from dougong.gateway.gateway import Gateway

__all__ = ["Counts", "Evening", "EveningSettings", "surplus"]

_CELL_BYTES = 8
_FILE_CELLS = 1024
"""A file never changes its size: who has it mapped would die of that."""


class EveningSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Who gives up connections, and how fast."""

    rebalance_every_s: float = 10.0
    rebalance_share: float = 0.02
    """Who has too many asks so much of his connections at a time to come again. 0 leaves all where they are."""
    uneven_share: float = 0.2
    """Too many: over the average by so much."""


def surplus(counts: list[int], mine: int, settings: EveningSettings) -> int:
    """How many connections a process should give up now, having `mine` where all have `counts`."""
    average = sum(counts) / len(counts)
    if mine <= average * (1 + settings.uneven_share) or mine - average < len(counts):
        return 0
    return min(int(mine - average), max(1, int(mine * settings.rebalance_share)))


class Counts:
    """How many connections each of `count` processes has, in memory that those share who were forked after it was made,
    or who name the same `file`."""

    def __init__(self, count: int, file: Path | None = None) -> None:
        assert 0 < count <= _FILE_CELLS
        self._count = count
        if file is None:
            self._memory = mmap.mmap(-1, count * _CELL_BYTES)
            return
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, _FILE_CELLS * _CELL_BYTES)
            self._memory = mmap.mmap(descriptor, _FILE_CELLS * _CELL_BYTES)
        finally:
            os.close(descriptor)

    def tell(self, number: int, connections: int | None) -> None:
        """None: it does not listen, yet or any more."""
        told = 0 if connections is None else connections + 1
        self._memory[number * _CELL_BYTES : (number + 1) * _CELL_BYTES] = told.to_bytes(_CELL_BYTES, "little")

    def all(self) -> list[int | None]:
        """What each told."""
        cells = memoryview(self._memory).cast("Q")[: self._count].tolist()
        return [told - 1 if told else None for told in cells]


class Evening:
    """One process's part in it; `step` once a second. Times are passed in."""

    def __init__(self, gateway: Gateway, number: int, counts: Counts, settings: EveningSettings, now: float) -> None:
        self._gateway = gateway
        self._number = number
        self._counts = counts
        self._settings = settings
        self._due = now + settings.rebalance_every_s

    def step(self, now: float) -> None:
        """Say how many there are, and when it is time, give up what is too much."""
        mine = len(self._gateway)
        self._counts.tell(self._number, mine)
        if self._settings.rebalance_share and now >= self._due:
            self._due = now + self._settings.rebalance_every_s
            listening = [count for count in self._counts.all() if count is not None]
            self._gateway.shed(surplus(listening, mine, self._settings))

    def leave(self) -> None:
        """It listens no more."""
        self._counts.tell(self._number, None)
