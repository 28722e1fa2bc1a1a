"""Who owns which bucket: the map every router agrees on, as a value.

Keys fall into 128 buckets, and never into others; a bucket lives in one database, and may move. So a key's bucket is
computed once and for all, and only this small table changes when databases come and go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple

import msgspec

from dougong.errors import Conflict, Invalid, Unavailable

__all__ = ["BUCKETS", "BucketMap", "BucketState", "Key", "Move", "Place", "StaleEpoch"]

BUCKETS = 128
"""Frozen: another number would put every key somewhere else."""

Key = int | str


class StaleEpoch(Unavailable):
    """The database does not own the bucket (any more), or takes no writes for it: read the map again, then retry."""

    buckets: tuple[int, ...] = ()
    """Those in the way, of the ones that were asked for."""

    def __init__(self, message: str, **fields: str | int) -> None:
        super().__init__(message, code="stale_epoch", retry_after_s=0.1, **fields)


class BucketState(Enum):
    """What the owner of a bucket does with it."""

    SERVING = "serving"
    """It takes reads and writes."""
    MOVING = "moving"
    """The same, while it is copied to another database."""
    FENCED = "fenced"
    """Reads only: the last changes are on their way to another database."""


class Place(msgspec.Struct, frozen=True):
    """Where a bucket is."""

    shard: str
    """Name of a database."""
    epoch: int = 1
    """Counts the owners so far. A database serves a bucket only to those who know its present epoch."""
    state: BucketState = BucketState.SERVING


class Move(NamedTuple):
    """One bucket that has to change its database."""

    bucket: int
    source: str
    target: str


class BucketMap(msgspec.Struct, frozen=True):
    """Version and the place of each of the 128 buckets. A value: changing gives another one."""

    version: int
    """Counts the changes."""
    places: tuple[Place, ...]

    def __post_init__(self) -> None:
        if len(self.places) != BUCKETS:
            raise Invalid(f"a map has {BUCKETS} buckets, not {len(self.places)}", code="bad_bucket_map")

    @classmethod
    def of(cls, spread: Sequence[str]) -> BucketMap:
        """A first map: bucket i lives in `spread[i]`."""
        return cls(1, tuple(Place(shard) for shard in spread))

    def owners(self) -> dict[str, dict[int, int]]:
        """Database → its buckets → their epochs; only those that have any."""
        found: dict[str, dict[int, int]] = {}
        for bucket, place in enumerate(self.places):
            found.setdefault(place.shard, {})[bucket] = place.epoch
        return found

    def changed(self, bucket: int, before: Place, after: Place) -> BucketMap:
        """The next map, in which `bucket` is at `after`.

        `Conflict` (code `map_changed`) when it is not at `before`: somebody else was there first. Ownership changes
        with the next epoch, a state under the same; anything else is `Invalid` (code `bad_epoch`).
        """
        if self.places[bucket] != before:
            raise Conflict(
                f"bucket {bucket} is not at {before} but at {self.places[bucket]}; read the map again",
                code="map_changed",
                bucket=bucket,
            )
        if after.epoch != before.epoch + (after.shard != before.shard):
            raise Invalid(
                f"bucket {bucket} cannot go from {before} to {after}: a new owner counts the epoch up by one",
                code="bad_epoch",
                bucket=bucket,
            )
        return BucketMap(self.version + 1, (*self.places[:bucket], after, *self.places[bucket + 1 :]))

    def moves(self, spread: Sequence[str]) -> list[Move]:
        """What has to move until bucket i lives in `spread[i]`."""
        pairs = zip(self.places, spread, strict=True)
        return [Move(bucket, place.shard, shard) for bucket, (place, shard) in enumerate(pairs) if place.shard != shard]

    def share_moved(self, spread: Sequence[str], rows: Mapping[int, int]) -> float:
        """The share of `rows` (bucket → how many) that these moves take along."""
        everything = sum(rows.values())
        return sum(rows.get(move.bucket, 0) for move in self.moves(spread)) / everything if everything else 0.0
