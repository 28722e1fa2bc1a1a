"""Keeps snapshots up to date: what changed is written once it has been quiet for a moment."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from dougong.clock import Clock
from dougong.errors import Error
from dougong.registry.explaining import Source
from dougong.registry.routing import RoutingTable
from dougong.registry.snapshot import Snapshot, Snapshots
from dougong.telemetry import get_logger

__all__ = ["SnapshotKeeper"]

QUIET_S = 1.0
"""A burst of changes is one write."""
IO_S_MAX = 2.0
INSTANCES_MAX = 10_000


class SnapshotKeeper:
    """Saves tables while they are good: confirmed by the registry, nobody under suspicion."""

    def __init__(self, snapshots: Snapshots, clock: Clock) -> None:
        self._snapshots = snapshots
        self._clock = clock
        self._waiting: dict[str, RoutingTable] = {}
        self._saved: dict[str, int] = {}
        self._failing: set[str] = set()
        self._wake = asyncio.Event()

    async def load(self, service: str) -> Snapshot | None:
        """What an earlier life left; None when there is nothing, or nothing usable, which is logged."""
        try:
            async with asyncio.timeout(IO_S_MAX):
                return await self._snapshots.load(service)
        except Error as error:
            get_logger(__name__).warning("snapshot_ignored", service=service, reason=error.message)
        except TimeoutError:
            get_logger(__name__).warning("snapshot_ignored", service=service, reason=f"not read in {IO_S_MAX} s")
        except Exception as error:  # noqa: BLE001 (then there is none)
            get_logger(__name__).error("snapshot_ignored", service=service, exc_info=error)
        return None

    def note(self, table: RoutingTable) -> None:
        """The table may have changed."""
        if table.source is Source.REGISTRY and not table.stale and self._saved.get(table.service) != table.contents:
            self._waiting[table.service] = table
            self._wake.set()

    async def run(self) -> None:
        """Save what changed, until cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(QUIET_S)
            self._wake.clear()
            await self.flush()

    async def flush(self) -> None:
        """Save what waits to be saved."""
        waiting, self._waiting = self._waiting, {}
        for service, table in waiting.items():
            if table.stale:
                continue  # it comes again when the registry confirms it
            contents = table.contents
            snapshot = Snapshot(service, table.revision, self._clock.now_us(), table.instances[:INSTANCES_MAX])
            try:
                async with asyncio.timeout(IO_S_MAX):
                    await self._snapshots.save(snapshot)
            except Exception as error:  # noqa: BLE001 (whatever a store of snapshots raises, the next one is tried)
                if service not in self._failing:
                    self._failing.add(service)
                    get_logger(__name__).warning(
                        "snapshot_not_saved", service=service, reason=str(error) or repr(error)
                    )
            else:
                self._failing.discard(service)
                self._saved[service] = contents

    async def finish(self, timeout_s: float) -> None:
        """Save what still waits, on the way out."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.flush()
