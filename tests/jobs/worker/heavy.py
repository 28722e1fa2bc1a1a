"""Jobs for processes: each must stand at the top of a module that a new process can import."""

from __future__ import annotations

import os
import signal
import time

from dougong.errors import Invalid
from dougong.jobs import Backoff, job
from dougong.jobs.worker import current_job

SOON = Backoff(first_s=0.01, max_s=0.01)


@job(process=True)
def where(n: int) -> list[int]:
    current_job().progress(n, 10, "here")
    return [os.getpid(), current_job().attempt, n]


@job(process=True, retries=1, backoff=SOON)
def crashes() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


@job(process=True)
def refuses() -> None:
    raise Invalid("no such order", code="no_order")


@job(process=True, retries=0, timeout_s=0.3)
def hangs() -> None:
    time.sleep(600)


@job(process=True)
def waits_for_cancel() -> None:
    current_job().progress(1)
    time.sleep(600)
