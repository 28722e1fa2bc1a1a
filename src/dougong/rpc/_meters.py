"""What the pools of this process hold and did, for Prometheus: asked when somebody reads, never on a call's way.

A pool knows its own numbers (`PoolStats`, `Limits`); here they are added up by cluster. What was counted stays counted
when an instance goes or a client is closed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Protocol
from weakref import WeakSet

from dougong.mesh import Cluster
from dougong.rpc.pool_settings import PoolStats
from dougong.telemetry import before_render, counter, gauge

__all__ = ["Metered", "forget", "left", "watch"]

_CLUSTER = ("cluster",)
_connections = gauge("dougong_rpc_pool_connections", "Connections open, those that drain included.", _CLUSTER)
_streams = gauge("dougong_rpc_pool_streams", "Batch streams open.", _CLUSTER)
_pending = gauge("dougong_rpc_pool_pending", "Calls and batches that wait for a connection or a stream.", _CLUSTER)
_active = gauge("dougong_rpc_pool_active", "Calls, streams and batches on a connection.", _CLUSTER)
_created = counter("dougong_rpc_pool_created_total", "Connections and batch streams made.", ("cluster", "what"))
_reused = counter("dougong_rpc_pool_reused_total", "Calls and batches that found what they needed.", _CLUSTER)
_waits = counter("dougong_rpc_pool_waits_total", "Times that a call or batch was told to wait.", _CLUSTER)
_checks = counter("dougong_rpc_pool_checks_total", "Health checks of connections.", _CLUSTER)
_retired = counter(
    "dougong_rpc_pool_retired_total", "Connections that take nothing new, by reason.", ("cluster", "reason")
)
_overflow = counter(
    "dougong_rpc_pool_overflow_total",
    "What was over a limit: connections not opened, calls and retries refused, creations stopped by the breaker.",
    ("cluster", "limit"),
)
_COUNTERS = (_created, _reused, _waits, _checks, _retired, _overflow)
_GAUGES = (_connections, _streams, _pending, _active)
Series = tuple[str, ...]
"""A metric's name and its label values."""


class Metered(Protocol):
    """A pool."""

    cluster: Cluster

    def figures(self) -> Iterable[PoolStats]:
        """Of each instance that is there, or still has calls under way."""


_pools = WeakSet[Metered]()
_past = Counter[Series]()
_shown = set[str]()


def watch(pool: Metered) -> None:
    """Until `forget`."""
    _pools.add(pool)


def forget(pool: Metered) -> None:
    """It is closed, and `left` was told of its instances."""
    if pool in _pools:
        _pools.discard(pool)
        _past.update(_of_limits(pool.cluster))


def left(cluster: Cluster, stats: PoolStats) -> None:
    """An instance is gone."""
    _past.update(_of_instance(cluster.name, stats))


def _of_instance(cluster: str, stats: PoolStats) -> Counter[Series]:
    counted: dict[Series, int] = {
        (_created.name, cluster, "connection"): stats.connections_created,
        (_created.name, cluster, "stream"): stats.streams_created,
        (_reused.name, cluster): stats.reused,
        (_waits.name, cluster): stats.waits,
        (_checks.name, cluster): stats.checks,
        (_overflow.name, cluster, "breaker"): stats.refused,
    }
    counted |= {(_retired.name, cluster, reason): count for reason, count in stats.retired.items()}
    return Counter(counted)


def _of_limits(cluster: Cluster) -> Counter[Series]:
    counted = cluster.counters
    limits = {
        "connections": counted.upstream_cx_overflow,
        "pending": counted.upstream_rq_pending_overflow,
        "requests": counted.upstream_rq_active_overflow,
        "retries": counted.upstream_rq_retry_overflow,
    }
    return Counter({(_overflow.name, cluster.name, limit): count for limit, count in limits.items()})


def _refresh() -> None:
    total, now = Counter(_past), Counter[Series]()
    for pool in tuple(_pools):
        cluster = pool.cluster
        total.update(_of_limits(cluster))
        now[_pending.name, cluster.name] += cluster.limits.pending
        now[_active.name, cluster.name] += cluster.limits.requests
        for stats in pool.figures():
            total.update(_of_instance(cluster.name, stats))
            now[_connections.name, cluster.name] += stats.connections
            now[_streams.name, cluster.name] += stats.streams
        _shown.add(cluster.name)
    for each in _GAUGES:
        for name in _shown:
            each.set(now[each.name, name], name)
    counters = {each.name: each for each in _COUNTERS}
    for (name, *labels), count in total.items():
        # A pool that was dropped without being closed takes its numbers along; a counter never goes back.
        counters[name].inc(max(0, count - counters[name].value(*labels)), *labels)


before_render(_refresh)
