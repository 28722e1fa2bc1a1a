"""One suite for all registries: each test asks for `registry` and runs once per implementation.

Who asks for `harness` as well wants power over time, which a real server does not give: such a test runs on those that
read a clock of ours, and its like with real time stands among etcd's own.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests import engines
from tests.registry.rebased import RebasedRegistry

from dougong.clock import ManualClock
from dougong.evidence.etcd_cluster import EtcdCluster
from dougong.registry import LocalRegistry, MemoryRegistry, Registry, open_registry

CLOCKED = ["memory", "local"]
REAL = [pytest.param("etcd", marks=pytest.mark.xdist_group("etcd"))]
_namespaces = itertools.count(1)


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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", CLOCKED if "harness" in metafunc.fixturenames else [*CLOCKED, *REAL])


@pytest.fixture
def cluster() -> EtcdCluster:
    """This worker's etcd, shared by all of its tests: who hurts it heals it."""
    return engines.etcd()


@pytest.fixture
def etcd_url(cluster: EtcdCluster) -> str:
    """A namespace of the test's own on it."""
    return cluster.url(f"namespace=/test{next(_namespaces)}")


@pytest.fixture
async def world(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness | Registry]:
    """A registry; where we have the power over its time, within a harness."""
    if kind == "etcd":
        url: str = request.getfixturevalue("etcd_url")
        etcd, janitor = await open_registry(url), await open_registry(url)
        yield RebasedRegistry(etcd, (await etcd.list("/")).revision)
        await etcd.close()
        for item in (await janitor.list("")).items:  # or their leases' ends would count as somebody's revisions
            await janitor.delete(item.key)
        await janitor.close()
        return

    def make(clock: ManualClock, history_revisions_max: int) -> Registry:
        if kind == "memory":
            return MemoryRegistry(clock, history_revisions_max=history_revisions_max)
        path = tmp_path / f"registry-{history_revisions_max}.db"
        return LocalRegistry(path, clock, history_revisions_max=history_revisions_max)

    made = Harness(make)
    yield made
    await made.close()


@pytest.fixture
def harness(world: Harness | Registry) -> Harness:
    assert isinstance(world, Harness)
    return world


@pytest.fixture
def registry(world: Harness | Registry) -> Registry:
    return world.registry if isinstance(world, Harness) else world
