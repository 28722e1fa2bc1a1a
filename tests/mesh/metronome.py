"""When Envoy's intervals end."""

from __future__ import annotations

import asyncio
import time

from tests.mesh.envoy import ClusterSpec, Envoy
from tests.mesh.upstreams import Caller, Upstreams

from dougong.mesh.policy import OutlierPolicy

__all__ = ["Metronome", "metronome_cluster"]


def metronome_cluster(name: str, period: float, port: int) -> ClusterSpec:
    """One host that is ejected at once, for no time: it comes back whenever an interval ends."""
    policy = OutlierPolicy(consecutive_5xx=1, interval_s=period, base_ejection_s=0.001, max_ejection_percent=100)
    return ClusterSpec(name, (port,), policy)


class Metronome:
    """Says when intervals end: live, for waits; exactly, from the log."""

    def __init__(self, envoy: Envoy, upstreams: Upstreams, name: str, period: float) -> None:
        self._caller = Caller(envoy.port)
        self._ticked = asyncio.Condition()
        self._count = 0
        self._number = 0
        self._last = 0.0
        self._period = period
        self.name = name
        upstreams.decide[name] = lambda host, attempt, name: 500

    async def run(self) -> None:
        try:
            out = False  # when the first interval began, nobody can tell
            while True:
                self._number += 1
                was_out, out = out, await self._caller.call(self.name, f"{self.name}/{self._number}") == 503
                if was_out and not out:
                    async with self._ticked:
                        self._count += 1
                        self._last = time.monotonic()
                        self._ticked.notify_all()
                await asyncio.sleep(0.01)
        finally:
            self._caller.close()

    @property
    def quiet(self) -> bool:
        """No interval ends right now."""
        return 0.1 < (time.monotonic() - self._last) % self._period < self._period - 0.2

    async def wait(self, ticks: int) -> None:
        async with self._ticked:
            end = self._count + ticks
            await self._ticked.wait_for(lambda: self._count >= end)
