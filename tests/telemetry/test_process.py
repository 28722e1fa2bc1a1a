"""What the process tells about itself."""

from __future__ import annotations

import asyncio
import os
import time

import psutil

from dougong.telemetry import Metrics, ProcessMetrics, render_prometheus


def value(metrics: Metrics, name: str) -> float:
    for line in render_prometheus(metrics).splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    raise AssertionError(name)


async def test_memory_descriptors_and_processor_time_are_read_when_asked() -> None:
    metrics = Metrics()
    process = ProcessMetrics(metrics)
    process.start()
    try:
        before = value(metrics, "process_open_fds")
        pipes = [os.pipe() for _ in range(5)]
        after = value(metrics, "process_open_fds")
        for end in (end for pipe in pipes for end in pipe):
            os.close(end)
        assert after == before + 10
        assert value(metrics, "process_resident_memory_bytes") > 10_000_000
        assert value(metrics, "process_cpu_seconds_total") > 0
        assert value(metrics, "process_start_time_seconds") == round(psutil.Process().create_time(), 2)
    finally:
        await process.stop()


async def test_a_blocked_loop_shows_as_lag() -> None:
    metrics = Metrics()
    process = ProcessMetrics(metrics, interval_s=0.01)
    process.start()
    try:
        await asyncio.sleep(0)  # the follower is in its sleep now
        time.sleep(0.1)  # what nobody should do
        async with asyncio.timeout(60):
            while value(metrics, "dougong_loop_lag_max_seconds") == 0:
                await asyncio.sleep(0.001)
        assert 0.05 < value(metrics, "dougong_loop_lag_max_seconds") < 60
    finally:
        await process.stop()


async def test_stopping_leaves_no_task_and_no_hook() -> None:
    metrics = Metrics()
    tasks = asyncio.all_tasks()
    process = ProcessMetrics(metrics)
    process.start()
    render_prometheus(metrics)
    assert len(asyncio.all_tasks() - tasks) == 1
    await process.stop()
    await process.stop()
    assert asyncio.all_tasks() == tasks
    assert metrics._before_render == []
    process.start()
    await process.stop()
