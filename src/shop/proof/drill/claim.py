"""The drill, and the claim that it goes well."""

from __future__ import annotations

import asyncio
import itertools
import math
import resource
import shutil
import signal
import socket
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import psutil

from dougong.evidence import Claim, Figures, Latencies, NotShown, Setting, Threshold
from dougong.gateway import LocalFanOut, Publisher
from shop.proof.drill.crowd import Message
from shop.proof.drill.options import Heard, Options
from shop.proof.tcc.child import Child, child

__all__ = ["Plan", "Run", "connections_drill", "plan", "run_drill"]

_MODULE = "shop.proof.drill"
_START_S = 90.0
_PATIENCE_S = 120.0
_TICK_S = 0.01
_LOOK_S = 0.25
_PER_PROCESS = 10_000
_SPARE_DESCRIPTORS = 1_000
_BASELINE_SHARE = 0.2
_LAG_MAX_S = 0.5


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much of everything."""

    sessions: int
    messages_per_s: float
    workers: int
    drain_s: float
    """In which a worker may be left by all its clients; half of it is the pace."""
    reconnect_s: float
    connect_per_s: float
    keep: bool = True
    """History, from which those who come back get what they missed."""

    @property
    def pace_per_s(self) -> float:
        """At which clients are asked to go, at most: the last worker to be replaced has taken its part of all whom
        the others sent away before."""
        most = self.sessions / self.workers * (self.workers / (self.workers - 1)) ** (self.workers - 1)
        return 2 * most / self.drain_s


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What a drill came to."""

    sessions: int
    published: int
    told: int
    missing: int
    again: int
    astray: int
    gaps: int
    unpublished: int
    ended: int
    returns: int
    """Connections after each client's first."""
    returns_peak_per_s: float
    """In the worst second."""
    returns_over_pace: float
    restart_s: float
    lag_s: float
    """Of the clients, at worst: after a long one many begin at once whatever they were told."""
    late_p50_ms: float
    late_p99_ms: float
    late_max_ms: float


def plan(*, quick: bool) -> Plan:
    if quick:
        return Plan(
            sessions=300, messages_per_s=200, workers=2, drain_s=5.0, reconnect_s=1.0, connect_per_s=400
        )  # fmt: skip
    return Plan(
        sessions=20_000, messages_per_s=1000, workers=4, drain_s=40.0, reconnect_s=5.0, connect_per_s=600
    )  # fmt: skip


async def run_drill(plan: Plan) -> Run:
    """Connect, publish without a pause, replace all workers meanwhile, and count what came."""
    folder = Path(tempfile.mkdtemp(prefix="dougong-drill-"))
    try:
        async with AsyncExitStack() as stack:
            options = Options(
                folder=str(folder), port=_free_port(), sessions=0, workers=plan.workers, drain_s=plan.drain_s,
                reconnect_s=plan.reconnect_s, connect_per_s=plan.connect_per_s,
            )  # fmt: skip
            hub = await stack.enter_async_context(child(_MODULE, "hub", _text(options)))
            await hub.hear(_START_S)
            gateway = await stack.enter_async_context(_gateway(options))
            crowds = [
                await stack.enter_async_context(child(_MODULE, "crowd", _text(one))) for one in _shares(options, plan)
            ]
            publisher = await stack.enter_async_context(
                Publisher(LocalFanOut(folder, serves=False, timeout_s=_PATIENCE_S))
            )
            return await _Drill(plan, gateway, crowds, publisher).run()
    finally:
        await asyncio.to_thread(shutil.rmtree, folder)


class _Drill:
    def __init__(self, plan: Plan, gateway: psutil.Process, crowds: Sequence[Child], publisher: Publisher) -> None:
        self._plan = plan
        self._gateway = gateway
        self._crowds = crowds
        self._publisher = publisher
        self._late = Latencies()
        self._began: Counter[int] = Counter()
        self._lag_s = 0.0
        self._published = self._unpublished = 0
        self._over = asyncio.Event()

    async def run(self) -> Run:
        plan = self._plan
        give_up = time.monotonic() + plan.sessions / plan.connect_per_s + _PATIENCE_S
        while sum(heard.following for heard in await self._heard()) < plan.sessions:
            if time.monotonic() > give_up:
                raise NotShown(f"not all of {plan.sessions:,} clients could connect in time")
            await asyncio.sleep(_LOOK_S)
        self._began.clear()
        self._lag_s = 0.0
        publishing = asyncio.create_task(self._publish())
        try:
            await asyncio.sleep(1.0)
            restart_s = await self._restart()
            await self._settle()
        finally:
            self._over.set()
            await publishing
        return await self._judge(restart_s)

    async def _publish(self) -> None:
        """As many a second, whatever becomes of them, each to the next client."""
        start = time.monotonic()
        while not self._over.is_set():
            due = int((time.monotonic() - start) * self._plan.messages_per_s)
            first = self._published
            self._published = max(first, due)
            told = await asyncio.gather(*map(self._tell, range(first, due)), return_exceptions=True)
            self._unpublished += sum(isinstance(one, BaseException) for one in told)
            await asyncio.sleep(_TICK_S)

    async def _tell(self, which: int) -> None:
        number, user = divmod(which, self._plan.sessions)
        message = Message(number, time.monotonic_ns() // 1000)
        await self._publisher.tell(str(user), message, keep=self._plan.keep)

    async def _restart(self) -> float:
        """Ask for it; how long until every worker is another process."""
        before = {one.pid for one in self._gateway.children()}
        start = time.monotonic()
        give_up = start + self._plan.workers * (self._plan.drain_s + _START_S)
        self._gateway.send_signal(signal.SIGHUP)
        while True:
            await self._heard()
            now = {one.pid for one in self._gateway.children()}
            if not before & now and len(now) == self._plan.workers:
                return time.monotonic() - start
            if time.monotonic() > give_up:
                raise NotShown(f"of {self._plan.workers} workers {len(before & now)} were not replaced in time")
            await asyncio.sleep(_LOOK_S)

    async def _settle(self) -> None:
        """Until all are back, if they come."""
        give_up = time.monotonic() + _PATIENCE_S
        while sum(heard.connected for heard in await self._heard()) < self._plan.sessions:
            if time.monotonic() > give_up:
                return
            await asyncio.sleep(_LOOK_S)

    async def _judge(self, restart_s: float) -> Run:
        """When all has come that was published, or long after."""
        published, give_up = self._published - self._unpublished, time.monotonic() + _PATIENCE_S
        if not self._plan.keep:
            give_up = time.monotonic() + 2.0  # what is lost does not come
        heard = await self._heard()
        while sum(one.told for one in heard) < published and time.monotonic() < give_up:
            await asyncio.sleep(_LOOK_S)
            heard = await self._heard()
        told, late = sum(one.told for one in heard), self._late.quantiles()
        peak = max((sum(self._began[at + step] for step in range(10)) for at in self._began), default=0)
        return Run(
            sessions=sum(one.connected for one in heard),
            published=published,
            told=told,
            missing=published - told,
            again=sum(one.again for one in heard),
            astray=sum(one.astray for one in heard),
            gaps=sum(one.gaps for one in heard),
            unpublished=self._unpublished,
            ended=sum(one.ended for one in heard),
            returns=sum(one.connections for one in heard) - self._plan.sessions,
            returns_peak_per_s=peak,
            returns_over_pace=peak / self._plan.pace_per_s,
            restart_s=restart_s,
            lag_s=self._lag_s,
            late_p50_ms=late.p50_ms,
            late_p99_ms=late.p99_ms,
            late_max_ms=late.max_ms,
        )

    async def _heard(self) -> Sequence[Heard]:
        async def ask(crowd: Child) -> Heard:
            await crowd.tell("")
            return msgspec.json.decode(await crowd.hear(_START_S), type=Heard)

        heard = await asyncio.gather(*map(ask, self._crowds))
        for one in heard:
            self._late.add_buckets(one.late)
            self._lag_s = max(self._lag_s, one.lag_s)
            self._began.update(dict(one.began))
        return heard


@asynccontextmanager
async def _gateway(options: Options) -> AsyncGenerator[psutil.Process]:
    """Its parent; all its processes end with the block."""
    async with child(_MODULE, "gateway", _text(options)) as started:
        parent = psutil.Process(started.pid)
        try:
            yield parent
        finally:
            for worker in parent.children():  # they would notice, but drain first
                worker.kill()


def _shares(options: Options, plan: Plan) -> list[Options]:
    """Clients in as few processes as descriptors allow, two at least where there are many."""
    each = min(_PER_PROCESS, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - _SPARE_DESCRIPTORS)
    count = max(math.ceil(plan.sessions / each), 2 if plan.sessions > 1000 else 1)
    cuts = [plan.sessions * place // count for place in range(count + 1)]
    return [
        msgspec.structs.replace(options, first=first, sessions=end - first, connect_per_s=plan.connect_per_s / count)
        for first, end in itertools.pairwise(cuts)
    ]


def _text(options: Options) -> str:
    return msgspec.json.encode(options).decode()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Experiment:
    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._plan = plan(quick=setting.quick)
        self._problems: list[str] = []

    async def baseline(self, pair: int) -> Figures:
        """Everybody is cut off at once, comes again at once, and asks for nothing. Fewer of them: a stampede of all
        would say how many this machine's clients can begin."""
        plan = self._plan
        self._setting.say("all at once, and no history")
        without = msgspec.structs.replace(
            plan,
            sessions=round(plan.sessions * _BASELINE_SHARE),
            messages_per_s=plan.messages_per_s * _BASELINE_SHARE,
            drain_s=0.01,
            reconnect_s=0.0,
            keep=False,
        )
        return _figures(await run_drill(without))

    async def ours(self, pair: int) -> Figures:
        self._setting.say(f"{self._plan.sessions:,} sessions, {self._plan.workers} workers replaced in turn")
        run = await run_drill(self._plan)
        if run.lag_s > _LAG_MAX_S and not run.missing + run.again + run.astray + run.gaps + run.unpublished:
            raise NotShown(f"the clients' loops turned up to {run.lag_s:.1f} s late: this machine is too busy")
        if run.sessions != self._plan.sessions or run.ended:
            self._problems.append(f"{run.sessions:,} of {self._plan.sessions:,} clients are there at the end")
        if run.unpublished:
            self._problems.append(f"{run.unpublished:,} messages could not be published")
        return _figures(run)

    async def verify(self) -> Sequence[str]:
        return self._problems


def _figures(run: Run) -> Figures:
    return {name: float(value) for name, value in msgspec.structs.asdict(run).items()}


@asynccontextmanager
async def _experiment(setting: Setting) -> AsyncGenerator[_Experiment]:
    yield _Experiment(setting)


connections_drill = Claim(
    name="connections-drill",
    title="A deploy that no message is lost in",
    situation=(
        "When a gateway's processes are replaced, every client is cut off. If all come again at once they are a "
        "stampede, and what was published meanwhile they have missed."
    ),
    task=(
        "Replace all four workers of a gateway that holds 20,000 sessions, while 1,000 messages a second are "
        "published: each reaches its session, once and in its turn, and clients come again at the pace that was set."
    ),
    action=(
        "On SIGHUP workers are replaced one after the other. Each asks its clients to come again, so many a second, "
        "with a hint when; they subscribe from the last offset they have. The clients are `LiveClient`s in processes "
        "of their own, the messages go through a hub. What it is compared with has neither pace nor history."
    ),
    result=(
        "{ours[published]:,.0f} messages to {ours[sessions]:,.0f} sessions during a restart of "
        "{ours[restart_s]:,.0f} s: {ours[missing]:.0f} missing, {ours[again]:.0f} twice, {ours[astray]:.0f} out of "
        "turn, P99 {ours[late_p99_ms]:,.0f} ms. {ours[returns]:,.0f} returns, at most "
        "{ours[returns_peak_per_s]:,.0f} in a second; without pace and history a fifth of them makes "
        "{baseline[returns_peak_per_s]:,.0f}, and loses {baseline[missing]:,.0f} of {baseline[published]:,.0f}."
    ),
    experiment=_experiment,
    thresholds=(
        Threshold("ours.missing", at_most=0),
        Threshold("ours.again", at_most=0),
        Threshold("ours.astray", at_most=0),
        Threshold("ours.gaps", at_most=0),
        Threshold("ours.returns_over_pace", at_most=1.5),
        Threshold("baseline.missing", at_least=1),
    ),
    pairs=1,
    pairs_quick=1,
)
