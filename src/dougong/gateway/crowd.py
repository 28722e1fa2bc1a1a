"""The members of a topic that has many: in parts, each told in one turn of the loop.

A part keeps what waits to be told to it, so that a message is told to those who were members when it was published, and
messages that wait for the same part go out in one write. Who joins comes into a part for which nothing waits: what was
published before is not his.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

from dougong.gateway.outbox import Slow

__all__ = ["Crowd", "Part", "Telling"]

M = TypeVar("M")


class Telling(msgspec.Struct):
    """A message on its way to the parts of a crowd."""

    topic: str
    frame: bytes
    slow: Slow
    parts: int = 0
    """How many have still to be told."""
    lost: bool = False
    """It says that others could not wait."""


class Part(Generic[M]):
    """Some of the members."""

    __slots__ = ("members", "waiting")

    def __init__(self, members: set[M]) -> None:
        self.members = members
        self.waiting: list[Telling] = []


class Crowd(Generic[M]):
    """All of them; `size` is how many a part may have."""

    __slots__ = ("_joining", "_size", "parts")

    def __init__(self, members: set[M], size: int) -> None:
        self._size = size
        self._joining = Part(members)
        """Where the last one came in."""
        self.parts = [self._joining]

    def __len__(self) -> int:
        return sum(len(part.members) for part in self.parts)

    def __iter__(self) -> Iterator[M]:
        for part in self.parts:
            yield from part.members

    def __contains__(self, member: M) -> bool:
        return any(member in part.members for part in self.parts)

    def add(self, member: M) -> None:
        """One that is not there."""
        part = self._joining
        if part.waiting or len(part.members) >= self._size or not part.members:
            part = self._joining = self._room(1) or self._new()
        part.members.add(member)

    def remove(self, member: M) -> None:
        """One that is there."""
        for part in self.parts:
            if member in part.members:
                part.members.remove(member)
                if not part.members:
                    self.parts.remove(part)
                return

    def told(self, part: Part[M]) -> None:
        """Nothing waits for it any more. What joined in small parts while much was told becomes one again."""
        if 0 < len(part.members) <= self._size // 2 and not part.waiting:
            room = self._room(len(part.members), beside=part)
            if room is not None:
                room.members |= part.members
                self.parts.remove(part)
                part.members = set()

    def _room(self, count: int, beside: Part[M] | None = None) -> Part[M] | None:
        for part in self.parts:
            if part is not beside and not part.waiting and len(part.members) + count <= self._size:
                return part
        return None

    def _new(self) -> Part[M]:
        part: Part[M] = Part(set())
        self.parts.append(part)
        return part
