"""All stories at once: against a real Envoy and against our core."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from tests.mesh.outlier_replay import replay_outliers
from tests.mesh.pool_replay import replay_pools
from tests.mesh.replayed import Replayed
from tests.mesh.upstreams import Upstreams

__all__ = ["replay_all"]


async def replay_all(differing: Collection[str] = ()) -> dict[str, Replayed]:
    """By vector. What was void or differs is run again, on a cluster of its own and more slowly: Envoy ejects on one
    thread and picks on another, so a call right behind an error may overtake what follows from it."""
    upstreams = Upstreams(10)
    await upstreams.start()
    try:
        pools, outliers = await asyncio.gather(replay_pools(upstreams), replay_outliers(upstreams, differing))
    finally:
        await upstreams.stop()
    return {**pools, **outliers}
