"""Huey, whose workers take a job off the list before they run it: it has no acknowledgement to choose."""

from __future__ import annotations

import os
import time

from huey import RedisHuey

from shop.proof.jobs.tally import tally

__all__ = ["huey", "put"]

huey = RedisHuey("proof", url=os.environ["SHOP_PROOF_URL"], results=False)


def _nothing(number: int) -> None:
    tally().note(number)


def _pause(number: int) -> None:
    time.sleep(0.001)
    tally().note(number)


_TASKS = {"nothing": huey.task(name="nothing")(_nothing), "pause": huey.task(name="pause")(_pause)}


def put(job: str, number: int) -> None:
    """Enqueue one."""
    _TASKS[job](number)
