"""Consistent hashing with bounded loads: any key, and few buckets move when a database comes or goes.

Karger et al. (1997): databases stand at many points of a circle (virtual nodes), a bucket belongs to the next one
clockwise. Mirrokni, Thorup and Zadimoghaddam (2016): none takes more than its share times `load_factor`; a full one
passes the bucket on. The circle holds buckets, not keys, so that a move is a row of the map and not a search for rows.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b

from dougong.errors import Invalid
from dougong.shard.buckets import BUCKETS, Key
from dougong.shard.routing import check_shards

__all__ = ["ConsistentHashRouting", "hash_bucket"]


class ConsistentHashRouting:
    """Keys by hash, buckets by ring. Growing from n to n + 1 databases moves about one part in n + 1."""

    name = "consistent-hash"

    def __init__(self, *, virtual_nodes: int = 64, load_factor: float = 1.1) -> None:
        """No database owns more than `load_factor` times its share, rounded up."""
        if virtual_nodes < 1 or load_factor < 1.0:
            raise Invalid(
                f"{virtual_nodes} virtual nodes and a load factor of {load_factor} cannot hold everything; give 1 or"
                " more of each",
                code="bad_ring",
            )
        self._virtual_nodes = virtual_nodes
        self._load_factor = load_factor

    def bucket(self, key: Key) -> int:
        return hash_bucket(key)

    async def find(self, key: Key, *, new: bool = True) -> int:
        return hash_bucket(key)

    def spread(self, shards: Sequence[str], before: Sequence[str] = ()) -> tuple[str, ...]:
        check_shards(shards)
        ring = sorted((_hash(f"{shard}#{node}"), shard) for shard in shards for node in range(self._virtual_nodes))
        points = [point for point, _ in ring]
        most = math.ceil(BUCKETS / len(shards) * self._load_factor)
        load: Counter[str] = Counter()
        owners: list[str] = []
        for bucket in range(BUCKETS):
            at = bisect.bisect_left(points, _hash(f"bucket {bucket}"))
            while load[ring[at % len(ring)][1]] >= most:
                at += 1
            owner = ring[at % len(ring)][1]
            load[owner] += 1
            owners.append(owner)
        return tuple(owners)

    def why(self, key: Key, bucket: int) -> str:
        return f"blake2b({str(key)!r}) % {BUCKETS} = {bucket}"


def hash_bucket(key: Key) -> int:
    """Frozen, like the number of buckets: 7 and "7" are one key."""
    return blake2b(str(key).encode(), digest_size=1).digest()[0] % BUCKETS


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
