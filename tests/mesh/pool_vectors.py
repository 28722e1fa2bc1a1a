"""What is replayed against a real Envoy: how many calls come, end and fail, under which limits."""

from __future__ import annotations

import msgspec

from dougong.mesh.policy import ConnectionLimits, RetryBudgetPolicy

__all__ = ["POOL_VECTORS", "PoolVector"]


class PoolVector(msgspec.Struct, frozen=True):
    """Steps: `start` calls that their host holds, `end` so many of those it holds, `fail`: calls that get 503 and whose
    retry is held."""

    name: str
    limits: ConnectionLimits
    steps: tuple[tuple[str, int], ...]
    hosts: int = 1
    budget: RetryBudgetPolicy | None = None
    http2: bool = False
    seen: dict[str, int] = {}


def _limits(**limits: int) -> ConnectionLimits:
    return msgspec.convert(limits, ConnectionLimits)


_WARM = (("start", 1), ("end", 1))

POOL_VECTORS = [
    PoolVector(
        "known-one-connection-one-waits",
        _limits(max_connections=1, max_pending=1),
        (*_WARM, ("start", 5), ("end", 2)),
        seen={"upstream_rq_pending_overflow": 3, "upstream_rq_total": 3},
    ),
    PoolVector(
        "known-ten-calls-per-connection",
        _limits(max_requests_per_connection=10),
        tuple(step for _ in range(40) for step in _WARM),
        http2=True,
        seen={"upstream_cx_total": 4, "upstream_cx_max_requests": 4},
    ),
    PoolVector("four-calls-per-connection", _limits(max_requests_per_connection=4), _WARM * 10),
    PoolVector("one-call-per-connection", _limits(max_requests_per_connection=1), (("start", 3), ("end", 3), *_WARM)),
    PoolVector(
        "calls-per-connection-at-once",
        _limits(max_requests_per_connection=3),
        (("start", 7), ("end", 2), ("start", 2), ("end", 7)),
        http2=True,
    ),
    PoolVector("none-may-wait-long", _limits(max_connections=2, max_pending=1), (("start", 6), ("end", 2), ("end", 1))),
    PoolVector("queue-in-order", _limits(max_connections=1, max_pending=4), (("start", 4), *(("end", 1),) * 4)),
    PoolVector(
        "queue-fills-again",
        _limits(max_connections=1, max_pending=2),
        (("start", 5), ("end", 1), ("start", 2), ("end", 3)),
    ),
    PoolVector("three-connections", _limits(max_connections=3), (("start", 5), ("end", 5), ("start", 3), ("end", 3))),
    PoolVector("max-requests", _limits(max_requests=2), (("start", 4), ("end", 2), ("start", 1), ("end", 1))),
    PoolVector("max-requests-http2", _limits(max_requests=3), (*_WARM, ("start", 6), ("end", 3)), http2=True),
    PoolVector(
        "max-requests-of-two-hosts",
        _limits(max_requests=3),
        (("start", 4), ("end", 3), ("start", 2), ("end", 2)),
        hosts=2,
    ),
    PoolVector("a-host-without-one-gets-one", _limits(max_connections=1), (("start", 2), ("end", 2)), hosts=2),
    PoolVector(
        "three-hosts-one-connection", _limits(max_connections=1), (("start", 3), ("start", 3), ("end", 6)), hosts=3
    ),
    PoolVector(
        "streams-per-connection",
        _limits(max_concurrent_streams=2, max_connections=2, max_pending=3),
        (("start", 8), ("end", 3), ("end", 4)),
        http2=True,
    ),
    PoolVector("one-connection-http2", _limits(max_connections=1), (("start", 8), ("end", 8)), http2=True),
    PoolVector(
        "a-draining-connection-takes-a-place",
        _limits(max_connections=1, max_requests_per_connection=2),
        (("start", 4), ("end", 2), ("end", 2)),
        http2=True,
    ),
    PoolVector(
        "two-hosts-drain",
        _limits(max_connections=2, max_requests_per_connection=1, max_pending=2),
        (("start", 6), ("end", 3), ("start", 2), ("end", 3)),
        hosts=2,
    ),
    PoolVector("retries-one", _limits(max_retries=1), (("fail", 3), ("end", 1), ("fail", 1), ("end", 1))),
    PoolVector("retries-three", _limits(max_retries=3), (("start", 2), ("fail", 5), ("end", 5))),
    PoolVector(
        "retries-none-under-way-left", _limits(max_retries=2), (("fail", 2), ("end", 2), ("fail", 2), ("end", 2))
    ),
    PoolVector("budget-least", _limits(), (("fail", 5), ("end", 3)), budget=RetryBudgetPolicy()),
    PoolVector("budget-one", _limits(), (("fail", 2), ("end", 1)), budget=RetryBudgetPolicy(20.0, 1)),
    PoolVector(
        "budget-20-of-11", _limits(), (("start", 11), ("fail", 5), ("end", 13)), budget=RetryBudgetPolicy(20.0, 1)
    ),
    PoolVector(
        "budget-50-grows-with-retries",
        _limits(),
        (("start", 4), ("fail", 6), ("end", 7)),
        budget=RetryBudgetPolicy(50.0, 0),
    ),
    PoolVector("budget-0", _limits(), (("start", 4), ("fail", 2), ("end", 4)), budget=RetryBudgetPolicy(0.0, 0)),
    PoolVector("budget-100", _limits(), (("start", 1), ("fail", 4), ("end", 5)), budget=RetryBudgetPolicy(100.0, 0)),
]
