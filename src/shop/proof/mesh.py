"""The claim about policy on the way of each call: what all of it costs, and what ejecting who fails is worth."""

from __future__ import annotations

import contextlib
import gc
import heapq
import importlib.metadata
import importlib.util
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from random import Random

from dougong.evidence import Claim, Figures, NotShown, Ratio, Setting, Threshold, median
from dougong.mesh import (
    OK,
    Balancer,
    BalancerKind,
    Balancing,
    Call,
    Cluster,
    ErrorRateBreaker,
    ErrorRatePolicy,
    Host,
    Mesh,
    Routes,
    make_balancer,
    of_http,
)
from dougong.registry import Instance

__all__ = ["HOSTS", "PUBLISHED", "all_policy", "failed_share", "load", "mesh"]

HOSTS = 100
_CALLS = 20_000
_RETRIED = 10
"""One call of so many asks to be made again."""
_FAILED = 200
"""One of so many is answered 503."""
_RATE, _SECONDS, _GROUP = 1000.0, 120.0, 10
_GOOD_S, _BAD_S = 0.01, 0.001
_UNAVAILABLE = of_http(503)
_PATH, _HOST = "/shop.v1.Orders/Place", "orders.default.svc.cluster.local"

PUBLISHED = "outlierDetection: {consecutive5xxErrors: 5, interval: 30s, baseEjectionTime: 60s}"
"""Of the DestinationRule that the published system runs, as are the limits below."""
_FILES = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders}
spec:
  host: orders
  trafficPolicy:
    connectionPool: {http: {http1MaxPendingRequests: 100, http2MaxRequests: 10000, maxRequestsPerConnection: 10}}
    retryBudget: {percent: 20, minRetryConcurrency: 3}
    OUTLIER
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders}
spec:
  hosts: [orders]
  http:
  - match: [{headers: {x-canary: {exact: always}}}]
    route: [{destination: {host: orders, subset: v2}}]
  - route:
    - {destination: {host: orders, subset: v1}, weight: 90}
    - {destination: {host: orders, subset: v2}, weight: 10}
"""

Piece = Callable[[int], None]
"""Do it so many times."""


def load(folder: Path, random: Random, outlier: str = PUBLISHED) -> Mesh:
    """Policy from files, as teams have it: a canary by header, nine calls of ten to the old version for all others."""
    path = folder / "orders.yaml"
    path.write_text(_FILES.replace("OUTLIER", outlier))
    loaded = Mesh.load([path])
    loaded.random = random
    return loaded


def _cluster(loaded: Mesh, hosts: int) -> Cluster:
    cluster = loaded.cluster(_HOST, 0.0)
    addresses = (f"10.0.{number // 250}.{number % 250}:8080" for number in range(hosts))
    cluster.update(tuple(Instance(service="shop.v1.Orders", address=address) for address in addresses), 0.0)
    return cluster


def _routes(loaded: Mesh) -> Routes:
    routes = loaded.routes(_HOST)
    assert routes is not None, "the file has a VirtualService"
    return routes


def all_policy(loaded: Mesh) -> Piece:
    """What a call goes through: its route, a host by P2C that is not ejected, limits, the retry budget, the outcome."""
    cluster, random = _cluster(loaded, HOSTS), loaded.random
    route, pick, begin, ended = _routes(loaded).route, cluster.pick, cluster.begin, cluster.ended
    begin_retry, end_retry, headers = cluster.limits.begin_retry, cluster.limits.end_retry, {"x-user": "4711"}

    def run(count: int) -> None:
        now = 0.0
        for number in range(count):
            now += 0.0005
            route(Call(_PATH, headers, _HOST), random)
            host = pick(now)
            begin(host)
            if not number % _RETRIED and begin_retry():
                end_retry()
            ended(host, OK if number % _FAILED else _UNAVAILABLE, now)

    return run


def _pieces(loaded: Mesh) -> dict[str, Piece]:
    """Each by itself, the loop around it included."""
    cluster, random = _cluster(loaded, HOSTS), loaded.random
    route, pick, begin, ended = _routes(loaded).route, cluster.pick, cluster.begin, cluster.ended
    begin_retry, end_retry, headers = cluster.limits.begin_retry, cluster.limits.end_retry, {"x-user": "4711"}
    host = cluster.hosts[0]

    def routed(count: int) -> None:
        for _ in range(count):
            route(Call(_PATH, headers, _HOST), random)

    def picked(count: int) -> None:
        for _ in range(count):
            pick(5.0)

    def limited(count: int) -> None:
        for _ in range(count):
            begin(host)
            ended(host, OK, 5.0)

    def retried(count: int) -> None:
        for _ in range(count):
            begin_retry()
            end_retry()

    return {"route": routed, "pick": picked, "limits_and_outlier": limited, "retry_budget": retried}


def _balancers(loaded: Mesh) -> dict[str, Piece]:
    """A pick by each, among as many hosts."""
    cluster, random = _cluster(loaded, HOSTS), loaded.random
    pieces: dict[str, Piece] = {}
    for kind in BalancerKind:
        balancer = make_balancer(Balancing(kind=kind), random)
        balancer.changed(cluster.hosts)
        pieces[f"pick_{kind.value}"] = _picking(balancer, cluster, random)
    return pieces


def _picking(balancer: Balancer, cluster: Cluster, random: Random) -> Piece:
    pick, hosts, keys = balancer.pick, cluster.hosts, [random.getrandbits(64) for _ in range(1024)]

    def run(count: int) -> None:
        for number in range(count):
            pick(hosts, keys[number & 1023], 5.0)

    return run


def _nothing() -> None:
    """What a breaker lets through here."""


def _our_breaker() -> Piece:
    breaker = ErrorRateBreaker(ErrorRatePolicy())
    admit, succeeded = breaker.admit, breaker.succeeded

    def run(count: int) -> None:
        for _ in range(count):
            ticket = admit(5.0)
            _nothing()
            if ticket is not None:
                succeeded(ticket, 5.0)

    return run


def _their_breakers() -> dict[str, Piece]:
    import purgatory
    import pybreaker

    call = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=60).call
    get_breaker = purgatory.SyncCircuitBreakerFactory(default_threshold=5, default_ttl=30).get_breaker

    def by_pybreaker(count: int) -> None:
        for _ in range(count):
            call(_nothing)

    def by_purgatory(count: int) -> None:
        for _ in range(count):
            with get_breaker("orders"):
                _nothing()

    return {"pybreaker": by_pybreaker, "purgatory": by_purgatory}


def _us(piece: Piece, calls: int) -> float:
    """Processor time of one, in microseconds: what others do on this machine does not count."""
    times: list[float] = []
    piece(calls // 10)
    gc.collect()
    for _ in range(5):
        started = time.process_time()
        piece(calls)
        times.append((time.process_time() - started) / calls * 1e6)
    return median(times)


def failed_share(loaded: Mesh, *, seconds: float = _SECONDS) -> float:
    """Of calls to ten hosts, one of which answers 503, and soon: in simulated time, by a seed.

    Who fails does it in a tenth of the time, so that it has the fewest calls under way, and a balancer by calls under
    way sends it more than its share.
    """
    random = loaded.random
    cluster = _cluster(loaded, _GROUP)
    bad = cluster.hosts[random.randrange(_GROUP)]
    ends: list[tuple[float, int, Host]] = []
    calls = failed = 0
    now = random.expovariate(_RATE)
    while now < seconds:
        while ends and ends[0][0] <= now:
            at, _, host = heapq.heappop(ends)
            cluster.ended(host, _UNAVAILABLE if host is bad else OK, at)
        host = cluster.pick(now)
        cluster.begin(host)
        calls += 1
        failed += host is bad
        heapq.heappush(ends, (now + random.expovariate(1 / (_BAD_S if host is bad else _GOOD_S)), calls, host))
        now += random.expovariate(_RATE)
    return failed / calls


class _Experiment:
    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._calls = _CALLS if setting.quick else 5 * _CALLS

    async def baseline(self, pair: int) -> Figures:
        figures = {f"{name}_us": _us(piece, self._calls) for name, piece in _their_breakers().items()}
        return figures | {"failed_share": failed_share(self._loaded(pair, outlier=""))}

    async def ours(self, pair: int) -> Figures:
        loaded = self._loaded(pair)
        pieces = {"all_policy": all_policy(loaded), "breaker": _our_breaker()}
        pieces |= _pieces(loaded) | _balancers(loaded)
        figures = {f"{name}_us": _us(piece, self._calls) for name, piece in pieces.items()}
        return figures | {"failed_share": failed_share(self._loaded(pair))}

    def _loaded(self, pair: int, outlier: str = PUBLISHED) -> Mesh:
        return load(self._setting.workdir, Random(self._setting.seed + pair), outlier)

    async def verify(self) -> Sequence[str]:
        return ()


@contextlib.asynccontextmanager
async def _in_this_process(setting: Setting) -> AsyncGenerator[_Experiment]:
    for name in ("pybreaker", "purgatory"):
        if importlib.util.find_spec(name) is None:
            raise NotShown(f"{name} is missing; pip install 'dougong[prove]'")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("pybreaker", "purgatory"))
    setting.say(versions)
    yield _Experiment(setting)


def _row(name: str, figure: str) -> str:
    return f"| {name} | {{ours[{figure}_us]:.2f}} |"


mesh = Claim(
    name="mesh",
    title="All of a DestinationRule on each call, in process",
    situation=(
        "Policy sits in a sidecar, or in a breaker here and a retry loop there; whoever fails gets its share of the "
        "calls until somebody takes it out by hand."
    ),
    task=f"Route, limits, retry budget, outlier detection and a pick among {HOSTS} hosts, for at most 2 µs a call.",
    action=(
        "Pure Python, no connection, time passed in: a route by header and weight, P2C among who is not ejected, "
        f"counting in and out; one call of {_FAILED} fails, one of {_RETRIED} asks the retry budget. Processor time of "
        f"a loop, the loop included. Then {_SECONDS:.0f} simulated seconds at {_RATE:,.0f} calls/s to {_GROUP} hosts, "
        "one of which fails, without and with the published rule (5 consecutive 5xx, interval 30 s, ejection 60 s). "
        "Beside it two breakers from PyPI: theirs serve threads and take a lock, ours belongs to one event loop."
    ),
    result=(
        "{ours[all_policy_us]:.2f} µs for all policy on a call; a breaker by error rate {ours[breaker_us]:.2f} µs, "
        "pybreaker {baseline[pybreaker_us]:.2f}, purgatory {baseline[purgatory_us]:.2f}. With one host of ten failing, "
        "{baseline[failed_share]:.1%} of the calls failed without ejection, {ours[failed_share]:.2%} with it."
    ),
    table="\n".join(
        [
            "| on each call | µs of processor time |\n| --- | ---: |",
            _row("all policy", "all_policy"),
            _row("route by header and weight", "route"),
            _row(f"pick among {HOSTS}, ejected ones left out", "pick"),
            _row("limits and outlier detection, in and out", "limits_and_outlier"),
            _row("retry budget", "retry_budget"),
            *(_row(f"pick by {kind.value}", f"pick_{kind.value}") for kind in BalancerKind),
            _row("breaker by error rate", "breaker"),
            "| pybreaker | {baseline[pybreaker_us]:.2f} |",
            "| purgatory | {baseline[purgatory_us]:.2f} |",
        ]
    ),
    experiment=_in_this_process,
    ratios={
        "breaker_to_pybreaker": Ratio("breaker_us", "pybreaker_us"),
        "breaker_to_purgatory": Ratio("breaker_us", "purgatory_us"),
        "failed": Ratio("failed_share", "failed_share"),
    },
    thresholds=(Threshold("ours.all_policy_us", at_most=2.0),),
)
