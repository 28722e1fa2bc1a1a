"""One suite for all registries: each test asks for `harness` and runs once per implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from dougong.clock import ManualClock
from dougong.registry import LocalRegistry, MemoryRegistry, Registry


class Harness:
    """A registry and the power over its time."""

    def __init__(self, make: Callable[[ManualClock, int], Registry]) -> None:
        self.clock = ManualClock(monotonic=1_000.0)
        self._make = make
        self._made: list[Registry] = []
        self.registry = self.open()

    def open(self, *, history_revisions_max: int = 10_000) -> Registry:
        registry = self._make(self.clock, history_revisions_max)
        self._made.append(registry)
        return registry

    async def pass_time(self, seconds: float) -> None:
        """Let time pass and the registry notice."""
        self.clock.advance(seconds)
        await self.registry.list("/")

    async def close(self) -> None:
        for registry in self._made:
            await registry.close()


@pytest.fixture(params=["memory", "local"])
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness]:
    def make(clock: ManualClock, history_revisions_max: int) -> Registry:
        if request.param == "memory":
            return MemoryRegistry(clock, history_revisions_max=history_revisions_max)
        path = tmp_path / f"registry-{history_revisions_max}.db"
        return LocalRegistry(path, clock, history_revisions_max=history_revisions_max)

    made = Harness(make)
    yield made
    await made.close()


@pytest.fixture
def registry(harness: Harness) -> Registry:
    return harness.registry
