"""From a key to its bucket: the seam, and the strategy for numbers that spread themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dougong.errors import Invalid
from dougong.shard.buckets import BUCKETS, Key

__all__ = ["ModuloRouting", "Routing"]


class Routing(Protocol):
    """A strategy: which bucket a key falls into, and how buckets are laid over databases.

    The first must never change for a key that has rows. The second is a plan: where buckets are now, the map says.
    """

    @property
    def name(self) -> str:
        """Kept with the map: opened with another strategy, keys would be looked for in the wrong place."""

    def bucket(self, key: Key) -> int | None:
        """The key's bucket, computed; None when that takes a lookup."""

    async def find(self, key: Key, *, new: bool = True) -> int:
        """The key's bucket where `bucket` does not know it.

        A key that has none gets one, durably, or with `new=False` raises `NotFound` (code `unplaced_key`).
        """

    def spread(self, shards: Sequence[str], before: Sequence[str] = ()) -> tuple[str, ...]:
        """The database of each of the 128 buckets. `before`: where they are now."""

    def why(self, key: Key, bucket: int) -> str:
        """One sentence for people: how the key came to its bucket."""


class ModuloRouting:
    """`key % 128`, for ids minted so that their low seven bits are the bucket.

    Databases take buckets in turn, `bucket % databases`. Doubling moves half of the buckets, which is the least there
    can be; any other growth moves nearly all of them.
    """

    name = "modulo"

    def bucket(self, key: Key) -> int:
        if type(key) is not int:
            raise Invalid(
                f"modulo routing needs a number, not {key!r}; route text with ConsistentHashRouting", code="bad_key"
            )
        return key % BUCKETS

    async def find(self, key: Key, *, new: bool = True) -> int:
        return self.bucket(key)

    def spread(self, shards: Sequence[str], before: Sequence[str] = ()) -> tuple[str, ...]:
        check_shards(shards)
        return tuple(shards[bucket % len(shards)] for bucket in range(BUCKETS))

    def why(self, key: Key, bucket: int) -> str:
        return f"{key} % {BUCKETS} = {bucket}"


def check_shards(shards: Sequence[str]) -> None:
    """1 to 128 databases, each once."""
    if not 1 <= len(shards) <= BUCKETS or len(set(shards)) != len(shards):
        raise Invalid(
            f"{BUCKETS} buckets lie in 1 to {BUCKETS} databases, each named once; got {len(shards)}", code="bad_shards"
        )
