"""Celery, for many short jobs (its page "Optimizing"): prefetch, no results, no events; acknowledged when done."""

from __future__ import annotations

import os
import time

from celery import Celery

from shop.proof.jobs.tally import tally

__all__ = ["app", "put"]

app = Celery("proof", broker=os.environ["SHOP_PROOF_URL"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=128,
    worker_send_task_events=False,
    broker_pool_limit=32,
    broker_transport_options={
        "visibility_timeout": 5,
        "unacked_restore_interval": 2,
        "unacked_restore_throttle": 1,
    },  # an hour by default: what a killed worker had comes back after that
    worker_hijack_root_logger=False,
)


def _nothing(number: int) -> None:
    tally().note(number)


def _pause(number: int) -> None:
    time.sleep(0.001)
    tally().note(number)


_TASKS = {"nothing": app.task(name="nothing")(_nothing), "pause": app.task(name="pause")(_pause)}


def put(job: str, number: int) -> None:
    """Enqueue one."""
    _TASKS[job].delay(number)  # pyright: ignore[reportCallIssue] (it has no types)
