"""What the process itself needs: memory, file descriptors, processor time, and how late its event loop runs."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

import psutil

from dougong.telemetry.metrics import PROCESS, Metrics

__all__ = ["ProcessMetrics"]

_WINDOW_S = 10.0


class ProcessMetrics:
    """Gauges of this process; memory and descriptors are read when Prometheus asks, loop lag is followed by a task.

    Loop lag is by how much a sleep of `interval_s` came back late: the wait every request met in that moment.
    """

    def __init__(self, metrics: Metrics = PROCESS, *, interval_s: float = 0.5) -> None:
        self._interval_s = interval_s
        self._metrics = metrics
        self._process = psutil.Process()
        # Names are those of the official Prometheus clients, so that ready-made dashboards fit.
        self._rss = metrics.gauge("process_resident_memory_bytes", "Resident memory size in bytes.")
        self._fds = metrics.gauge("process_open_fds", "Number of open file descriptors.")
        self._cpu = metrics.counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.")
        self._lag = metrics.gauge("dougong_loop_lag_seconds", "How late the event loop came back at the last look.")
        self._lag_max = metrics.gauge("dougong_loop_lag_max_seconds", "The latest it came back in the last 10 seconds.")
        metrics.gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.").set(
            self._process.create_time()
        )
        self._lags: deque[float] = deque(maxlen=max(1, round(_WINDOW_S / interval_s)))
        self._task: asyncio.Task[None] | None = None
        self._undo: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Begin; needs a running event loop."""
        assert self._task is None, "already started"
        self._undo = self._metrics.before_render(self.refresh)
        self._task = asyncio.create_task(self._follow_lag(), name="dougong-loop-lag")

    async def stop(self) -> None:
        """End the task; the last values stay."""
        task, self._task = self._task, None
        if task is None:
            return
        self._undo()
        task.cancel()
        await asyncio.wait([task])

    def refresh(self) -> None:
        """Read what is read on demand."""
        self._rss.set(self._process.memory_info().rss)
        times = self._process.cpu_times()
        self._fds.set(self._process.num_fds())
        self._cpu.inc(max(0.0, times.user + times.system - self._cpu.value()))

    async def _follow_lag(self) -> None:
        while True:
            # Not loop.time(): uvloop's is the time at which the loop's turn began, in whole milliseconds.
            before = time.monotonic()
            await asyncio.sleep(self._interval_s)
            lag = max(0.0, time.monotonic() - before - self._interval_s)
            self._lags.append(lag)
            self._lag.set(lag)
            self._lag_max.set(max(self._lags))
