"""Dramatiq, as it comes: it acknowledges when a job is done. Without the parts that nobody looks at here."""

from __future__ import annotations

import os
import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Retries

from shop.proof.jobs.tally import tally

__all__ = ["broker", "put"]

broker = RedisBroker(  # type: ignore[no-untyped-call]
    url=os.environ["SHOP_PROOF_URL"],
    middleware=[Retries()],
    heartbeat_timeout=5_000,
    maintenance_chance=10_000,  # of a million commands, so many look for workers that are gone
)
dramatiq.set_broker(broker)


@dramatiq.actor
def nothing(number: int) -> None:
    tally().note(number)


@dramatiq.actor
def pause(number: int) -> None:
    time.sleep(0.001)
    tally().note(number)


_ACTORS = {"nothing": nothing, "pause": pause}


def put(job: str, number: int) -> None:
    """Enqueue one."""
    _ACTORS[job].send(number)
