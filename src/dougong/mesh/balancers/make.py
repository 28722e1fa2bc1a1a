"""From policy to balancer."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from dougong.mesh.balancers.balancer import Balancer
from dougong.mesh.balancers.least_request import LeastRequest
from dougong.mesh.balancers.localities import Localities
from dougong.mesh.balancers.maglev import Maglev
from dougong.mesh.balancers.peak_ewma import PeakEwma
from dougong.mesh.balancers.random_choice import RandomChoice
from dougong.mesh.balancers.ring_hash import RingHash
from dougong.mesh.balancers.round_robin import RoundRobin
from dougong.mesh.policy import BalancerKind, Balancing

__all__ = ["make_balancer"]


def make_balancer(
    balancing: Balancing,
    random: Random,
    *,
    locality: str = "",
    labels: Mapping[str, str] | None = None,
    failover: bool = True,
    panic_percent: int = 0,
) -> Balancer:
    """What `balancing` asks for. `locality` and `labels` are the caller's own; the rest is as in `Localities`."""
    if balancing.locality is None or not balancing.locality.enabled:
        return _flat(balancing, random)
    return Localities(
        balancing.locality,
        random,
        lambda: _flat(balancing, random),
        locality=locality,
        labels=labels,
        failover=failover,
        panic_percent=panic_percent,
    )


def _flat(balancing: Balancing, random: Random) -> Balancer:
    match balancing.kind:
        case BalancerKind.LEAST_REQUEST:
            return LeastRequest(random, warmup_s=balancing.warmup_s)
        case BalancerKind.ROUND_ROBIN:
            return RoundRobin(random, warmup_s=balancing.warmup_s)
        case BalancerKind.RANDOM:
            return RandomChoice(random)
        case BalancerKind.RING_HASH:
            return RingHash(random, ring_size_min=balancing.ring_size_min)
        case BalancerKind.MAGLEV:
            return Maglev(random, table_size=balancing.maglev_size)
        case BalancerKind.PEAK_EWMA:
            return PeakEwma(random, warmup_s=balancing.warmup_s)
