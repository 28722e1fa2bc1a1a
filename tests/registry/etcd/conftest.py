"""Registries on the worker's real cluster."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from tests import engines

from dougong.evidence.etcd_cluster import EtcdCluster, EtcdMember
from dougong.registry.etcd import EtcdRegistry, EtcdSettings

# Both need a machine that is ours; where it is not, these tests do not exist.
collect_ignore = [
    *([] if engines.can_cut_networks() else ["test_partitions.py"]),
    *([] if engines.can_slow_disks() else ["test_slow_disk.py"]),
]
_namespaces = itertools.count(1)
Connect = Callable[..., Awaitable[EtcdRegistry]]


@pytest.fixture
def namespace() -> str:
    return f"/faults{next(_namespaces)}"


@pytest.fixture
async def connect(cluster: EtcdCluster, namespace: str) -> AsyncIterator[Connect]:
    """Opens registries in the test's namespace, which ask `first` first; options as in the URL."""
    opened: list[EtcdRegistry] = []

    async def connect_(first: EtcdMember | None = None, **options: str | float) -> EtcdRegistry:
        query = "&".join(f"{name}={value}" for name, value in {"namespace": namespace, **options}.items())
        registry = EtcdRegistry(EtcdSettings.parse(cluster.url(query)))
        opened.append(registry)
        if first is not None:
            registry._cluster._current = cluster.members.index(first)
        await registry.open()
        return registry

    yield connect_
    for registry in opened:
        await registry.close()
