"""What ran, how often and when: a file in memory that all processes of an experiment share.

A job has a number, and notes its run under it: one store of a byte, so that measuring costs a job next to nothing, and
a worker that is killed takes nothing with it. One that takes a while notes its end too.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path

__all__ = ["TALLY", "Tally", "tally"]

TALLY = "SHOP_PROOF_TALLY"
"""The variable that says to workers where it is."""
_TIMES_MAX = 255
_time = struct.Struct("d")
_BYTES = 2 + 2 * _time.size
"""Of a job: how often it began and how often it ended, when it was due and when it first began."""


class Tally:
    """`path` must exist, made by `create`, for so many jobs as it has room for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.room = len(self._map) // _BYTES
        self._ended, self._due, self._started = self.room, 2 * self.room, self.room * (2 + _time.size)

    @classmethod
    def create(cls, path: Path, room: int) -> Tally:
        """An empty one."""
        with path.open("wb") as file:
            os.truncate(file.fileno(), room * _BYTES)
        return cls(path)

    def note(self, number: int) -> None:
        """It runs: called by the job."""
        times = self._map[number]
        if not times:
            _time.pack_into(self._map, self._started + number * _time.size, time.monotonic())
        self._map[number] = min(times + 1, _TIMES_MAX)

    def end(self, number: int) -> None:
        """It has ended as it should: called by a job that noted its start, and takes a while."""
        at = self._ended + number
        self._map[at] = min(self._map[at] + 1, _TIMES_MAX)

    def due(self, number: int, at: float) -> None:
        """When it was to be enqueued, by the monotonic clock, which is one for all processes of a machine."""
        _time.pack_into(self._map, self._due + number * _time.size, at)

    def ran(self, stop: int, start: int = 0) -> int:
        """How many of the numbers from `start` to before `stop` ran at least once."""
        return stop - start - self._map[start:stop].count(0)

    def doubled(self, stop: int, start: int = 0) -> int:
        """How many of those numbers ran more than once."""
        times = self._map[start:stop]
        return len(times) - times.count(0) - times.count(1)

    def at_once(self, stop: int, start: int = 0) -> int:
        """How many of those numbers have begun and not ended: as many run now, or were interrupted."""
        return self.ran(stop, start) - (stop - start - self._map[self._ended + start : self._ended + stop].count(0))

    def picked_up_s(self, stop: int, start: int = 0) -> list[float]:
        """Of those that ran: from when they were due to their first run, seconds."""
        return [
            self._read(self._started, number) - self._read(self._due, number)
            for number in range(start, stop)
            if self._map[number]
        ]

    def close(self) -> None:
        """Let go of it; the file stays."""
        self._map.close()

    def _read(self, base: int, number: int) -> float:
        value: float = _time.unpack_from(self._map, base + number * _time.size)[0]
        return value


_opened: list[Tally] = []


def tally() -> Tally:
    """This process's, of whose path `TALLY` tells. A process that was forked shares it with its parent."""
    if not _opened:
        _opened.append(Tally(Path(os.environ[TALLY])))
    return _opened[0]
