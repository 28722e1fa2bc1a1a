"""The claim about orders: an order service rebuilt for concurrency, against the one people start from."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import socket
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from pathlib import Path

import aiohttp
import msgspec
import psutil

import shop
from dougong.app import Supervisor, load_system
from dougong.errors import Unavailable
from dougong.evidence import (
    Claim,
    Figures,
    Generator,
    Journal,
    NotShown,
    Ratio,
    RushOptions,
    RushResult,
    Setting,
    Threshold,
    generator,
)
from shop.orders import PlacedOrder, PlaceOrder
from shop.proof._books import Before, OrderJournal, audit, is_at_rest, is_settled, look_before

__all__ = ["orders"]

# The published service carried 1,800 orders a second at a P99 of 86 ms.
_CALM: Mapping[str, object] = {"rate": 1800.0, "transport": "grpc"}
# The published stream carried 11,700 a second at a P99 of 89 ms.
_BUSY: Mapping[str, object] = {"rate": 11_700.0, "transport": "grpc"}
_STREAM: Mapping[str, object] = {"schedule": "closed", "transport": "grpc", "batch": 1000, "connections": 4}
_HTTP: Mapping[str, object] = {"schedule": "closed", "transport": "http", "connections": 64}
_BASELINE: Mapping[str, object] = {"schedule": "closed", "transport": "http", "connections": 64}
_START_S = 20.0
_REST_S = 60.0
_IDLE_S = 1.0
_WARM_UP_S = 0.3
_LOOK_S = 0.02


class _OrdersExperiment:
    """Shop and baseline, both up; the generator in a process of its own."""

    def __init__(self, setting: Setting, data: Path, naive_url: str, load: Generator, idle: Figures) -> None:
        self._setting = setting
        self._data = data
        self._naive_url = naive_url
        self._load = load
        self._idle = idle
        self._before: Before = look_before(data)
        self._journals: list[Path] = []
        self._seconds = 2.0 if setting.quick else 4.0

    async def warm_up(self) -> None:
        """One short load of each kind, not counted: caches are filled and connections open on both sides."""
        for how in (_CALM, _HTTP, _STREAM):
            await self._rush(0, how, seconds=_WARM_UP_S)
        await self._rush(0, _BASELINE, seconds=_WARM_UP_S, baseline=True)

    async def baseline(self, pair: int) -> Figures:
        result = await self._rush(pair, _BASELINE, baseline=True)
        return {"orders_per_s": result.report.acknowledged_per_s, "p99_ms": result.report.latency.p99_ms}

    async def ours(self, pair: int) -> Figures:
        calm = await self._rush(pair, _CALM)
        busy = await self._rush(pair, _BUSY)
        http = await self._rush(pair, _HTTP)
        stream, confirmed_s = await self._rush_until_confirmed(pair)
        return {
            "stream_orders_per_s": stream.report.acknowledged_per_s,
            "stream_confirmed_per_s": round(stream.report.acknowledged / confirmed_s, 1),
            "p50_ms_at_1800_per_s": calm.report.latency.p50_ms,
            "p99_ms_at_1800_per_s": calm.report.latency.p99_ms,
            "not_acknowledged_at_1800_per_s": float(calm.report.offered - calm.report.acknowledged),
            "p50_ms_at_11700_per_s": busy.report.latency.p50_ms,
            "p99_ms_at_11700_per_s": busy.report.latency.p99_ms,
            "not_acknowledged_at_11700_per_s": float(busy.report.offered - busy.report.acknowledged),
            "http_orders_per_s": http.report.acknowledged_per_s,
            "http_p99_ms": http.report.latency.p99_ms,
            **self._idle,
        }

    async def verify(self) -> Sequence[str]:
        journal: OrderJournal = Journal()
        for path in self._journals:
            journal.add(await asyncio.to_thread(Journal.load, path, PlaceOrder, PlacedOrder))
        found = await audit(self._data, journal, before=self._before)
        return [f"books: {discrepancy.kind}: {discrepancy.what}" for discrepancy in found]

    async def _rush_until_confirmed(self, pair: int) -> tuple[RushResult, float]:
        """The load on the stream, and how long it took until its last order was confirmed by all participants."""
        rushing = asyncio.create_task(self._rush(pair, _STREAM))
        try:
            await asyncio.sleep(self._seconds)
            busy_us = 0
            while True:
                done = rushing.done()
                if not await asyncio.to_thread(is_settled, self._data):
                    busy_us = time.time_ns() // 1000
                elif done:
                    break
                await asyncio.sleep(_LOOK_S)
            result = await rushing
        finally:
            rushing.cancel()
        return result, result.report.seconds + max(busy_us - result.ended_us, 0) / 1e6

    async def _rush(
        self,
        pair: int,
        how: Mapping[str, object],
        *,
        seconds: float = 0.0,
        baseline: bool = False,
        again: bool = False,
    ) -> RushResult:
        """One load, on a shop that has nothing left to do from the one before.

        When the generator could not keep up it says nothing: it is repeated once, then the claim cannot be shown here.
        """
        await self._rest()
        options = {"seed": self._setting.seed + pair, "seconds": seconds or self._seconds, **how}
        if baseline:
            options |= {"data": "", "http_url": self._naive_url}
        else:
            self._journals.append(self._data / f"journal-{len(self._journals)}")
            options |= {"data": str(self._data), "journal": str(self._journals[-1])}
        result = await self._load.rush("orders", msgspec.convert(options, RushOptions))
        with (self._setting.workdir / "runs.jsonl").open("a") as runs:
            runs.write(result.to_json() + "\n")
        if result.report.void:
            if again:
                raise NotShown(result.report.void)
            return await self._rush(pair, how, seconds=seconds, baseline=baseline, again=True)
        if not result.report.acknowledged:
            raise NotShown(f"nothing was acknowledged; refused: {result.report.refused}")
        return result

    async def _rest(self) -> None:
        give_up = time.monotonic() + _REST_S
        while not await asyncio.to_thread(is_at_rest, self._data):
            if time.monotonic() > give_up:
                raise NotShown(f"the shop was still busy {_REST_S:.0f} s after a load")
            await asyncio.sleep(_LOOK_S)


@asynccontextmanager
async def _experiment(setting: Setting) -> AsyncGenerator[_OrdersExperiment]:
    """Start both sides on free ports and fresh databases; remove everything afterwards."""
    if importlib.util.find_spec("fastapi") is None:
        raise NotShown("the baseline needs FastAPI; pip install 'dougong[prove]'")
    data = setting.workdir / "data"  # a temporary directory may be in memory, where nothing is durable
    data.mkdir()
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, data, ignore_errors=True)
        setting.say("starting the baseline")
        naive_url = await stack.enter_async_context(_naive(data))
        setting.say("starting the shop")
        idle = await stack.enter_async_context(_shop(setting, data))
        load = await stack.enter_async_context(generator())
        experiment = _OrdersExperiment(setting, data, naive_url, load, idle)
        setting.say("warming up")
        await experiment.warm_up()
        yield experiment


@asynccontextmanager
async def _shop(setting: Setting, data: Path) -> AsyncGenerator[Figures]:
    """The shop as its system file says, on another port: how long it took to get ready, and what it holds idle."""
    path = Path(shop.__file__).with_name("system.toml")
    system = load_system(path)
    edge = msgspec.structs.replace(system.apps["edge"], http="127.0.0.1:0")
    apps = {**system.apps, "edge": edge}
    del apps["live"]  # nobody looks
    system = msgspec.structs.replace(system, apps=apps)
    with (setting.workdir / "shop.log").open("w") as log:
        supervisor = Supervisor(system, path, data, on_line=lambda name, line: print(name, line, file=log))
        start = time.monotonic()
        await supervisor.start(ready_s=60.0)
        ready_s = time.monotonic() - start
        try:
            await asyncio.sleep(_IDLE_S)
            idle = {f"idle_mb_{p.name}": _resident_mb(p.pid) for p in supervisor.processes}
            yield {"ready_s": round(ready_s, 3), "idle_mb_max": max(idle.values()), **idle}
        finally:
            await supervisor.stop()


@asynccontextmanager
async def _naive(data: Path) -> AsyncGenerator[str]:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shop.proof.naive", str(data / "naive.db"), str(port), stdin=asyncio.subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        await _wait_until_up(url)
        yield url
    finally:
        with suppress(ProcessLookupError):
            child.terminate()
        await child.wait()


async def _wait_until_up(url: str) -> None:
    give_up = time.monotonic() + _START_S
    while True:
        try:
            async with aiohttp.request("GET", f"{url}/v1/products") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            pass  # not yet
        if time.monotonic() > give_up:
            raise Unavailable(f"the baseline is not up after {_START_S:.0f} s; its stderr says why", code="baseline")
        await asyncio.sleep(0.05)


def _resident_mb(pid: int) -> float:
    return round(psutil.Process(pid).memory_info().rss / 1e6, 1)


orders = Claim(
    name="orders",
    title="An order service rebuilt for concurrency",
    situation=(
        "An order service as most start: a web framework, an ORM, one database, one synchronous transaction per order. "
        "It is correct and durable, and its one process is busy at some hundreds of orders a second."
    ),
    task=(
        "Take 20,000 orders a second and twenty times as many on the same two cores, as durably and with the same "
        "checks, with stock and money in databases of their own services, and answer 99 of 100 orders within 86 ms at "
        "1,800 orders a second and within 89 ms at 11,700."
    ),
    action=(
        "Five processes that talk over batched bidirectional streams; stock and wallet reserved by TCC in batches; "
        "the decision made durable by group commit before an order is acknowledged; confirmation afterwards. Every "
        "order of the run is then looked up in the databases, and their books are added up."
    ),
    result=(
        "{ours[stream_orders_per_s]:,.0f} durable orders/s on the stream against {baseline[orders_per_s]:,.0f}/s, "
        "{ratio[orders_per_s]:.1f} times as many ({ours[stream_confirmed_per_s]:,.0f}/s when the time until the last "
        "one is confirmed counts too); {ours[http_orders_per_s]:,.0f}/s one by one over HTTP, "
        "{ratio[http_orders_per_s]:.1f} times as many; P99 {ours[p99_ms_at_1800_per_s]:.0f} ms at 1,800 orders/s and "
        "{ours[p99_ms_at_11700_per_s]:.0f} ms at 11,700; "
        "no process above {ours[idle_mb_max]:.0f} MB idle, ready {ours[ready_s]:.1f} s after an empty start."
    ),
    experiment=_experiment,
    ratios={
        "orders_per_s": Ratio("stream_orders_per_s", "orders_per_s"),
        "http_orders_per_s": Ratio("http_orders_per_s", "orders_per_s"),
    },
    pairs_quick=1,
    thresholds=(
        Threshold("ours.stream_orders_per_s", at_least=20_000),
        Threshold("ours.stream_confirmed_per_s", at_least=8000),
        Threshold("ours.http_orders_per_s", at_least=1500),
        Threshold("ours.p99_ms_at_1800_per_s", at_most=86),
        Threshold("ours.not_acknowledged_at_1800_per_s", at_most=0),
        Threshold("ours.p99_ms_at_11700_per_s", at_most=89),
        Threshold("ours.not_acknowledged_at_11700_per_s", at_most=0),
        Threshold("ratio.orders_per_s", at_least=20),
        Threshold("ours.idle_mb_max", at_most=90),
        Threshold("ours.ready_s", at_most=5),
    ),
)
