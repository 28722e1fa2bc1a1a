"""Whoever is cancelled while he starts a process leaves none behind, whatever the moment."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import psutil
import pytest

from dougong.app._child import Child

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("supervisor")]
SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


def ours() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


@pytest.mark.parametrize("turns", range(6))
async def test_a_start_that_is_cancelled_leaves_nothing(turns: int) -> None:
    before = ours()
    starting = asyncio.create_task(Child.start(SLEEPER, dict(os.environ), lambda _: None))
    for _ in range(turns):
        await asyncio.sleep(0)
    starting.cancel()
    async with asyncio.timeout(60):
        await asyncio.wait([starting])
    if starting.cancelled():
        assert ours() <= before
    else:  # it was through already
        child = starting.result()
        child.signal(signal.SIGKILL)
        await child.wait()


async def test_what_cannot_be_started_is_told_also_when_it_is_cancelled() -> None:
    with pytest.raises(FileNotFoundError):
        await Child.start(["/no/such/program"], dict(os.environ), lambda _: None)
    starting = asyncio.create_task(Child.start(["/no/such/program"], dict(os.environ), lambda _: None))
    await asyncio.sleep(0)
    starting.cancel()
    async with asyncio.timeout(60):
        await asyncio.wait([starting])
    assert starting.cancelled() or isinstance(starting.exception(), FileNotFoundError)
