"""The claim about pooled streams: all sides carry the same orders, and what keeps calls whole can fail."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from dougong.evidence import NotShown, Quantiles, Setting
from shop.proof.rpc_pool import claim
from shop.proof.rpc_pool.load import LoadOptions, LoadResult, Side
from shop.proof.rpc_pool.stand import Stand, stand

pytestmark = pytest.mark.processes

SIDES: tuple[Side, ...] = ("ours", "streams", "our_lists", "lists", "unary")


@pytest.fixture
async def started() -> AsyncIterator[Stand]:
    async with stand() as up:
        yield up


async def test_each_side_carries_the_same_orders(started: Stand) -> None:
    for side in SIDES:
        for rate in (0.0, 200.0):
            result = await started.run(LoadOptions(side=side, seconds=0.3, in_flight=32, batch=8, rate=rate))
            assert result.orders > 0
            assert (result.wrong, result.failures) == (0, {})
            assert result.counted == result.sent >= result.orders
            assert 0 < result.latency.p50_ms <= result.latency.p99_ms


async def test_streams_are_found_again_by_ours_and_by_no_batch_of_the_baseline(started: Stand) -> None:
    ours = await started.run(LoadOptions(side="ours", seconds=0.5, in_flight=32))
    plain = await started.run(LoadOptions(side="streams", seconds=0.5, in_flight=32, batch=8))
    assert ours.made < 10 < ours.reused
    assert plain.made == plain.reused + 2  # the connection once, a stream for every batch


async def test_no_call_fails_while_connections_do_and_a_server_is_killed(started: Stand) -> None:
    options = LoadOptions(side="ours", seconds=1.5, in_flight=32, rate=300.0)
    result = await started.disturbed(options, fail_share=claim.FAIL_SHARE, max_requests=20)
    assert result.orders > 0
    assert (result.wrong, result.failures) == (0, {})
    assert result.made > 10  # replaced all the time


async def test_where_nothing_can_be_opened_calls_fail(started: Stand) -> None:
    options = LoadOptions(side="ours", seconds=0.2, in_flight=4)
    result = await started.disturbed(options, fail_share=1.0, max_requests=20)
    assert result.orders == 0
    assert sum(result.failures.values()) >= 4


GOOD = LoadResult(
    orders=100, wrong=0, failures={}, seconds=1.0, latency=Quantiles(100, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0), cpu_s=0.1,
    made=1, reused=99, counted=100, sent=100,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, ""),
        ({"counted": 99}, "100 orders were sent, 99 are in the book"),
        ({"wrong": 1}, "1 answers were wrong"),
        ({"failures": {"connection_lost": 1}}, "calls failed: {'connection_lost': 1}"),
    ],
)
async def test_an_order_lost_or_refused_refutes_the_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], problem: str
) -> None:
    monkeypatch.setattr(claim, "stand", _pretended(msgspec.convert(msgspec.structs.asdict(GOOD) | change, LoadResult)))
    async with claim.rpc_pool.experiment(_setting(tmp_path)) as experiment:
        problems = await experiment.verify()
    assert any(problem in found for found in problems) if problem else not problems


async def test_callers_that_lag_show_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "stand", _pretended(msgspec.structs.replace(GOOD, void="sent 99 ms late")))
    with pytest.raises(NotShown, match="99 ms late"):
        async with claim.rpc_pool.experiment(_setting(tmp_path)):
            pass


def _pretended(result: LoadResult) -> Callable[[], AbstractAsyncContextManager[object]]:
    """A stand where every load comes to the same."""

    class Pretended:
        async def run(self, options: LoadOptions) -> LoadResult:
            assert options.side in SIDES
            return result

    @asynccontextmanager
    async def pretended() -> AsyncGenerator[Pretended]:
        yield Pretended()

    return pretended


def _setting(folder: Path) -> Setting:
    return Setting(quick=True, pairs=1, seed=1, workdir=folder, say=lambda _: None)
