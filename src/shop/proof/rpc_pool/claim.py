"""The claim about pooled batch streams: more orders, sooner, on connections that stay."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from dougong.evidence import Claim, Figures, NotShown, Ratio, Setting, Threshold
from shop.proof.rpc_pool.load import LoadOptions, LoadResult, Side
from shop.proof.rpc_pool.stand import Stand, stand

__all__ = ["FAIL_SHARE", "MAX_REQUESTS", "rpc_pool"]

_IN_FLIGHT = 512
_BATCH = 64
_LOADED = 0.7
"""Of what the baseline carries at most: where latency is judged, of both."""
FAIL_SHARE = 0.05
MAX_REQUESTS = 500


class _Experiment:
    def __init__(self, setting: Setting, stand: Stand) -> None:
        self._setting = setting
        self._stand = stand
        self._seconds = 1.0 if setting.quick else 3.0
        self._problems: list[str] = []
        self._rate = 0.0

    async def calibrate(self) -> None:
        """What the baseline carries decides at which rate latency is compared, the same in all pairs."""
        result = await self._run("streams", "calibration")
        self._rate = _LOADED * result.orders_per_s

    async def baseline(self, pair: int) -> Figures:
        closed = await self._run("streams", "streams")
        timed = await self._run("streams", "streams on schedule", rate=self._rate)
        lists = await self._run("lists", "lists")
        unary = await self._run("unary", "unary calls")
        return {
            "orders_per_s": closed.orders_per_s,
            "p99_ms": timed.latency.p99_ms,
            "p50_ms": timed.latency.p50_ms,
            "us_cpu_per_order": closed.cpu_s / closed.orders * 1e6,
            "list_orders_per_s": lists.orders_per_s,
            "unary_calls_per_s": unary.orders_per_s,
            "reuse_share": _share(closed, timed),
        }

    async def ours(self, pair: int) -> Figures:
        closed = await self._run("ours", "ours")
        timed = await self._run("ours", "ours on schedule", rate=self._rate)
        lists = await self._run("our_lists", "our lists")
        self._setting.say("connections that fail, a server that is killed")
        disturbed = await self._stand.disturbed(
            self._options("ours", self._rate, 2 * self._seconds, seed=self._setting.seed + pair),
            fail_share=FAIL_SHARE,
            max_requests=MAX_REQUESTS,
        )
        self._judge("under faults", disturbed)
        return {
            "orders_per_s": closed.orders_per_s,
            "p99_ms": timed.latency.p99_ms,
            "p50_ms": timed.latency.p50_ms,
            "us_cpu_per_order": closed.cpu_s / closed.orders * 1e6,
            "list_orders_per_s": lists.orders_per_s,
            "offered_per_s": self._rate,
            "reuse_share": _share(closed, timed),
            "faults_reuse_share": disturbed.reuse_share,
            "faults_orders_per_s": disturbed.orders_per_s,
            "faults_failed": sum(disturbed.failures.values()),
            "faults_p99_ms": disturbed.latency.p99_ms,
            "faults_max_ms": disturbed.latency.max_ms,
        }

    async def verify(self) -> Sequence[str]:
        return self._problems

    async def _run(self, side: Side, name: str, *, rate: float = 0.0) -> LoadResult:
        self._setting.say(name)
        result = await self._stand.run(self._options(side, rate, self._seconds, seed=self._setting.seed))
        self._judge(name, result)
        if result.counted != result.sent:
            self._problems.append(f"{name}: {result.sent} orders were sent, {result.counted} are in the book")
        return result

    def _options(self, side: Side, rate: float, seconds: float, *, seed: int) -> LoadOptions:
        return LoadOptions(side=side, seconds=seconds, in_flight=_IN_FLIGHT, batch=_BATCH, rate=rate, seed=seed)

    def _judge(self, name: str, result: LoadResult) -> None:
        if result.wrong or result.failures:
            self._problems.append(f"{name}: {result.wrong} answers were wrong, calls failed: {result.failures}")
        if result.void:
            raise NotShown(f"{name}: {result.void}")


def _share(*results: LoadResult) -> float:
    """Of all batches, those for which nothing had to be made."""
    reused = sum(result.reused for result in results)
    return reused / (reused + sum(result.made for result in results))


@asynccontextmanager
async def _both(setting: Setting) -> AsyncGenerator[_Experiment]:
    async with stand() as started:
        experiment = _Experiment(setting, started)
        await experiment.calibrate()
        yield experiment


rpc_pool = Claim(
    name="rpc-pool",
    title="Batches on streams that stay",
    situation=(
        "A front sends orders to a service over gRPC's default channel: what waits is written to a fresh bidirectional "
        f"stream, {_BATCH} orders at most, a message each, {_IN_FLIGHT} orders under way. Simpler clients make a call "
        "per order."
    ),
    task=(
        "Carry 1.43 times the orders with as many under way, answer 99 of 100 in 0.63 of the time at the same offered "
        "rate, find 99 of 100 streams open already; and for callers that have their orders in lists, as a front has, "
        "20 times as many as unary calls would carry."
    ),
    action=(
        "Orders that arrive while a batch is under way ride in the next as one frame on a pooled stream. Both sides "
        "batch alike (no timer: what waits goes when there is room), so the difference is what becomes of a batch. "
        "Then, for us alone: 5 of 100 attempts to connect or open a stream fail, connections are replaced every "
        f"{MAX_REQUESTS} batches, and one of two servers is killed with `kill -9` and started again."
    ),
    result=(
        "{ours[orders_per_s]:,.0f} orders/s against {baseline[orders_per_s]:,.0f} ({ratio[orders]:.1f} ×) and "
        "{baseline[unary_calls_per_s]:,.0f} unary calls/s ({ratio[unary_one_by_one]:.0f} ×; from lists "
        "{ours[list_orders_per_s]:,.0f}, {ratio[unary]:.0f} ×); P99 {ours[p99_ms]:.1f} ms against "
        "{baseline[p99_ms]:.1f} at {ours[offered_per_s]:,.0f}/s; {ours[reuse_share]:.1%} found their stream open, "
        "{ours[faults_reuse_share]:.1%} under faults, where {ours[faults_failed]:.0f} calls failed."
    ),
    table=(
        "| way | orders/s | µs of the callers' CPU an order |\n| --- | ---: | ---: |\n"
        "| ours, a call per order | {ours[orders_per_s]:,.0f} | {ours[us_cpu_per_order]:.1f} |\n"
        "| ours, callers with lists | {ours[list_orders_per_s]:,.0f} | |\n"
        "| stream per batch, a call per order | {baseline[orders_per_s]:,.0f} | {baseline[us_cpu_per_order]:.1f} |\n"
        "| stream per list | {baseline[list_orders_per_s]:,.0f} | |\n"
        "| unary calls | {baseline[unary_calls_per_s]:,.0f} | |"
    ),
    experiment=_both,
    ratios={
        "orders": Ratio("orders_per_s", "orders_per_s"),
        "p99": Ratio("p99_ms", "p99_ms"),
        "lists": Ratio("list_orders_per_s", "list_orders_per_s"),
        "unary": Ratio("list_orders_per_s", "unary_calls_per_s"),
        "unary_one_by_one": Ratio("orders_per_s", "unary_calls_per_s"),
    },
    thresholds=(
        Threshold("ratio.orders", at_least=1.43),
        Threshold("ratio.p99", at_most=0.63),
        Threshold("ours.reuse_share", at_least=0.99),
        Threshold("ratio.unary", at_least=20),
        Threshold("ours.faults_reuse_share", at_least=0.99),
        Threshold("ours.faults_failed", at_most=0),
    ),
    pairs_quick=1,
)
