"""The claim about long-lived connections: how many one machine holds, what each costs, and what they are worth."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import os
import resource
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import psutil

from dougong.evidence import Claim, Figures, NotShown, Ratio, Setting, Swarm, Threshold, quantiles_of, swarm_of
from dougong.gateway import Patience
from shop.proof.connections.comparing import Comparison, compare
from shop.proof.connections.memory import Sample, kept_share, sample
from shop.proof.connections.servers import NAMES, NEWS, Kind, Options
from shop.proof.connections.stand import Server, crowd, server

__all__ = ["Plan", "connections", "plan"]

_SET_UP_PER_S = 12_000.0
"""Offered; what comes of it is the figure."""
_BYTES_EACH = 10_500
"""Both ends: what must be free before it is tried."""
_WORKER_BYTES = 16_000_000
_CHECKS_PER_S = 5000.0
"""Beside the gateway's own pings. At 20,000 a second both ends of a million sessions take all of two cores: answers
come after the gateway's patience, and what waits to be read exceeds what TCP may take in all (net.ipv4.tcp_mem)."""
_DESCRIPTORS_SPARE = 200
_MUTED_SHARE = 0.01
_NEWS_BYTES = 100
_SETTLE_S = 2.0
_LOOK_S = 0.5
_TIMES = 3
"""A handshake that was refused is begun again so often, as clients do; the time it takes counts."""

_Look = Callable[[str], Awaitable[Sample]]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much of everything."""

    sessions: int
    hold_s: float
    patience: Patience
    """While they are held."""
    evict_s: float
    """Within which those that fall silent must be given up."""
    beside: Comparison
    """With the baselines."""
    broadcast_to: int
    alone: int
    """Messages to all while nothing else is told."""
    broadcasts: int
    """Then so many, one after the other on schedule, whether or not those before have arrived."""
    broadcast_every_s: float
    idle_s: float
    idle_patience: Patience = Patience()


def plan(*, quick: bool) -> Plan:
    """`DOUGONG_CONNECTIONS` and `DOUGONG_CONNECTIONS_MINUTES` make the full one smaller or shorter, and it says so."""
    if quick:
        return Plan(
            sessions=30_000, hold_s=2.0, patience=Patience(ping_every=4, pong=3),
            evict_s=15.0, beside=Comparison(few=2000, seconds=0.9, turns=3, in_flight=64, each=16),
            broadcast_to=10_000, alone=3, broadcasts=20, broadcast_every_s=0.03,
            idle_s=5.0, idle_patience=Patience(ping_every=5),
        )  # fmt: skip
    return Plan(
        sessions=int(os.environ.get("DOUGONG_CONNECTIONS", "1200000")),
        hold_s=60 * float(os.environ.get("DOUGONG_CONNECTIONS_MINUTES", "10")),
        patience=Patience(ping_every=60, pong=20),
        evict_s=120.0,
        beside=Comparison(few=5000, seconds=8.0, turns=32, in_flight=64, each=16),
        broadcast_to=100_000, alone=5, broadcasts=60, broadcast_every_s=0.28, idle_s=60.0,
        idle_patience=Patience(ping_every=60),
    )  # fmt: skip


class _Experiment:
    def __init__(self, setting: Setting, plan: Plan) -> None:
        self._setting = setting
        self._plan = plan
        self._problems: list[str] = []
        self._beside: dict[int, Mapping[Kind, Figures]] = {}
        """By pair."""

    async def baseline(self, pair: int) -> Figures:
        compared = await self._compared(pair)
        return {f"{kind}_{name}": value for kind in NAMES for name, value in compared[kind].items()}

    async def ours(self, pair: int) -> Figures:
        figures = dict((await self._compared(pair))["gateway"])
        if pair == 0:  # once: they take minutes, and nothing is compared with them
            figures |= await self._told()
            figures |= await self._held()
        return figures

    async def _compared(self, pair: int) -> Mapping[Kind, Figures]:
        """All at once, whichever side is asked for first."""
        if pair not in self._beside:
            self._beside[pair], problems = await compare(("gateway", *NAMES), self._plan.beside, self._setting.say)
            self._problems += problems
        return self._beside[pair]

    async def verify(self) -> Sequence[str]:
        return self._problems

    # what is told to many

    async def _told(self) -> Figures:
        """Idle for a while; then everybody is told the same, several times."""
        plan, many = self._plan, self._plan.broadcast_to
        self._setting.say(f"broadcasts to {many:,}")
        options = Options(kind="gateway", workers=_workers(many), news=True, patience=plan.idle_patience)
        async with server(options) as up, swarm_of(crowd(up, many, _SET_UP_PER_S)) as swarm:
            connected = await swarm.connect()
            if connected.open != many:
                raise NotShown(f"only {connected.open:,} of {many:,} connected: {connected.refused}")
            await asyncio.sleep(_SETTLE_S)
            cpu_s, start = await up.cpu_s(), time.monotonic()
            await asyncio.sleep(plan.idle_s)
            idle = (await up.cpu_s() - cpu_s) / (time.monotonic() - start)
            alone = sorted([await self._broadcast(up, swarm, many, 1) for _ in range(plan.alone)])
            per_s, p99_ms = await self._broadcast(up, swarm, many, plan.broadcasts)
        return {
            "idle_cpu_percent": 100 * idle,
            "broadcast_to": many,
            "broadcast_alone_per_s": alone[len(alone) // 2][0],
            "broadcast_offered_per_s": many / plan.broadcast_every_s,
            "broadcast_per_s": per_s,
            "broadcast_p99_ms": p99_ms,
        }

    async def _broadcast(self, up: Server, swarm: Swarm, many: int, count: int) -> tuple[float, float]:
        """Deliveries a second, from the moment the first was due to the last that was read; the P99 of all."""
        start, every_s = time.monotonic(), self._plan.broadcast_every_s
        for number in range(count):
            due = start + number * every_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await up.publish(_NEWS_BYTES, int(due * 1e6))
        # Whoever asks for the count disturbs what is counted, so not before it should be over.
        await asyncio.sleep(0.2 + many / 100_000)
        told, last_us, latencies = 0, 0, await swarm.counted()
        give_up = time.monotonic() + 30.0
        total = latencies
        while True:
            told += latencies.messages.get(NEWS, 0)
            last_us = max(last_us, latencies.last_us)
            if told >= many * count or time.monotonic() > give_up:
                break
            await asyncio.sleep(_LOOK_S)
            latencies = await swarm.counted()
            total.latency += latencies.latency
        if told != many * count:
            self._problems.append(f"of {many * count:,} deliveries {told:,} arrived")
        return told / max(1e-6, last_us / 1e6 - start), quantiles_of(total).p99_ms

    # a great many

    async def _held(self) -> Figures:
        plan, asked = self._plan, self._plan.sessions
        self._check_room()
        samples = [await asyncio.to_thread(sample, "before", (), ())]
        options = Options(kind="gateway", workers=_workers(asked), patience=plan.patience)
        async with server(options) as up, swarm_of(crowd(up, asked, _SET_UP_PER_S)) as swarm:

            async def look(what: str) -> Sample:
                samples.append(await asyncio.to_thread(sample, what, up.pids, swarm.pids))
                return samples[-1]

            try:
                figures = await self._hold(up, swarm, samples[0], look)
            finally:
                up.freeze()  # whatever ended it: nobody has to hear of a million ends
                self._keep(samples)
        return figures

    async def _hold(self, up: Server, swarm: Swarm, before: Sample, look: _Look) -> Figures:
        plan, asked = self._plan, self._plan.sessions
        empty = await look("empty")
        self._setting.say(f"connecting {asked:,}")
        connected = await swarm.connect()
        came_again = 0
        for _ in range(_TIMES):
            if not connected.refused:
                break
            self._setting.say(f"{connected.open:,} connected; these come again: {connected.refused}")
            came_again += sum(connected.refused.values())
            await asyncio.sleep(_SETTLE_S)
            connected = await swarm.connect()
        if not connected.open:
            raise NotShown(f"none of {asked:,} connected: {connected.refused}")
        self._setting.say(f"{connected.open:,} connected in {connected.seconds:.0f} s")
        await asyncio.sleep(_SETTLE_S)
        held, checks = await look("held"), 0
        cpu_s, start = await up.cpu_s(), time.monotonic()
        end = start + plan.hold_s
        while True:
            checks += 1
            self._setting.say(f"{connected.open:,} held; does each answer? ({checks})")
            alive = await swarm.check(per_s=_CHECKS_PER_S)
            if alive.answered != asked:
                self._problems.append(f"of {asked:,} sessions {alive.answered:,} answered check {checks}")
            held = max(held, await look(f"check {checks}"), key=lambda one: one.server + one.kernel)
            used_s = await up.cpu_s() - cpu_s  # which also fails, and says who it was, when one of them has died
            held_s = time.monotonic() - start
            if (left := end - time.monotonic()) <= 0:
                break
            await asyncio.sleep(min(60.0, left))
        muted, lost, took_s = await self._evict(swarm, round(asked * _MUTED_SHARE))
        self._setting.say("the clients vanish")
        whole = await look("without those who fell silent")
        up.freeze()
        await swarm.abort()
        await asyncio.sleep(_SETTLE_S)
        share = kept_share(empty, whole, await look("alone"))
        user = held.server - empty.server
        kernel = share * (held.kernel - empty.kernel)
        return {
            "sessions": alive.answered,
            "sessions_missing": asked - alive.answered + lost,
            "came_again": came_again,
            "held_minutes": plan.hold_s / 60,
            "held_cpu_percent": 100 * used_s / held_s,
            "set_up_per_s": connected.open / connected.seconds,
            "check_p99_ms": quantiles_of(alive).p99_ms,
            "user_bytes": user / connected.open,
            "kernel_bytes": kernel / connected.open,
            "kernel_share": share,
            "bytes_per_session": (user + kernel) / connected.open,
            "server_gb": (held.server + share * (held.kernel - before.kernel)) / 1e9,
            "all_gb": (held.server + held.clients + held.kernel - before.kernel) / 1e9,
            "available_fell_gb": (before.available - held.available) / 1e9,
            "evicted_share": muted,
            "evicted_s": took_s,
        }

    async def _evict(self, swarm: Swarm, count: int) -> tuple[float, int, float]:
        """Of those that answer nothing any more, how many the gateway gave up; how many it should not have; how long
        it took."""
        self._setting.say(f"{count:,} fall silent")
        start = time.monotonic()
        await swarm.mute(count)
        give_up = start + self._plan.evict_s
        report = await swarm.report()
        while report.muted and time.monotonic() < give_up:
            await asyncio.sleep(_LOOK_S + self._plan.sessions / 400_000)  # it takes all processes' time
            report = await swarm.report()
        if report.lost:
            self._problems.append(f"sessions that answered were lost: {report.lost}")
        return report.muted_lost / max(1, count), sum(report.lost.values()), time.monotonic() - start

    def _check_room(self) -> None:
        """Whether this machine can hold both ends. Raises `NotShown`."""
        needs = self._plan.sessions * _BYTES_EACH + 2 * _workers(self._plan.sessions) * _WORKER_BYTES
        free = psutil.virtual_memory().available
        if needs > free:
            raise NotShown(
                f"{self._plan.sessions:,} sessions, both ends, need {needs / 1e9:.1f} GB and {free / 1e9:.1f} GB are "
                "free; DOUGONG_CONNECTIONS asks for fewer"
            )
        files = int(Path("/proc/sys/fs/file-max").read_text())
        if 2 * self._plan.sessions > files:
            raise NotShown(f"the kernel allows {files:,} open files in all (fs.file-max), two are needed for each")

    def _keep(self, samples: Sequence[Sample]) -> None:
        path = self._setting.workdir / "memory.json"
        path.write_bytes(msgspec.json.format(msgspec.json.encode(samples), indent=1))


@asynccontextmanager
async def _experiment(setting: Setting) -> AsyncGenerator[_Experiment]:
    for package in ("websockets", "picows"):
        if importlib.util.find_spec(package) is None:
            raise NotShown(f"a baseline needs {package}; pip install 'dougong[prove]'")
    if sys.platform != "linux":
        raise NotShown("memory is read from Linux's /proc")
    yield _Experiment(setting, plan(quick=setting.quick))


def _workers(sessions: int) -> int:
    """Processes that hold so many, two at least: this is about machines with several cores."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return max(2, math.ceil(sessions / (min(hard, 20_000) - _DESCRIPTORS_SPARE)))


connections = Claim(
    name="connections",
    title="1,200,000 live connections in one gateway",
    situation=(
        "A client that waits for news keeps a connection open. Held with a task and two streams, or by the usual "
        "libraries, an idle one takes 5 to 30 KB of the server's memory, and a message back and forth 20 µs and more."
    ),
    task=(
        "Hold 1,200,000 authenticated sessions in at most 6.8 GB of a server's memory, the kernel's included, set up "
        "at 5,000 a second and more, each answering a ping a minute for ten minutes; give up the 1 % that fall silent "
        "and no other; tell 100,000 messages of 100 bytes at 300,000 deliveries a second, P99 within a second; idle "
        "but for a ping a minute each, 100,000 take at most 5 % of a core. Calls, many under way on a connection, at "
        "four times the rate of `websockets`; one at a time, not behind `picows`."
    ),
    action=(
        "Processes forked from one share what they import. Sockets are held by number in an epoll instance, with some "
        "slots and a place in a timing wheel each: no task, timer, buffer or transport. Memory is the processes' PSS "
        "and what the kernel's grew by; which part of that is the server's is measured by having all clients reset "
        "their ends while the server is frozen. Messages to all come on schedule, and those that wait for the same "
        "members go out in one write. Every server answers the same JSON call with the same bytes; all stand at once "
        "and are called in turns of a quarter of a second."
    ),
    result=(
        "{ours[sessions]:,.0f} sessions held {ours[held_minutes]:.1f} minutes, all answering, in "
        "{ours[server_gb]:.2f} GB: {ours[user_bytes]:,.0f} + {ours[kernel_bytes]:,.0f} bytes (process + kernel) each, "
        "set up at {ours[set_up_per_s]:,.0f}/s; {ours[evicted_share]:.0%} of the silent given up in "
        "{ours[evicted_s]:.0f} s. {ours[broadcast_to]:,.0f} sessions idle take {ours[idle_cpu_percent]:.1f} % of a "
        "core and are told at {ours[broadcast_per_s]:,.0f} deliveries/s, P99 {ours[broadcast_p99_ms]:,.0f} ms (one "
        "message alone: {ours[broadcast_alone_per_s]:,.0f}/s). {ours[many_per_s]:,.0f} calls/s with 16 under way on a "
        "connection, {ratio[many_websockets]:.1f} × `websockets` and {ratio[many_picows]:.1f} × `picows`; one at a "
        "time {ours[echo_per_s]:,.0f}/s, {ratio[echo_websockets]:.1f} × and {ratio[echo_picows]:.2f} ×."
    ),
    table=(
        "| server | bytes an idle connection | calls/s | µs of its CPU a call | P99 ms | 16 at a time: calls/s | µs | "
        "P99 ms |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| ours | {ours[bytes]:,.0f} | {ours[echo_per_s]:,.0f} | {ours[echo_cpu_us]:.1f} | {ours[echo_p99_ms]:.1f} | "
        "{ours[many_per_s]:,.0f} | {ours[many_cpu_us]:.1f} | {ours[many_p99_ms]:.1f} |\n"
        + "".join(
            f"| {name} | {{baseline[{kind}_bytes]:,.0f}} | {{baseline[{kind}_echo_per_s]:,.0f}} | "
            f"{{baseline[{kind}_echo_cpu_us]:.1f}} | {{baseline[{kind}_echo_p99_ms]:.1f}} | "
            f"{{baseline[{kind}_many_per_s]:,.0f}} | {{baseline[{kind}_many_cpu_us]:.1f}} | "
            f"{{baseline[{kind}_many_p99_ms]:.1f}} |\n"
            for kind, name in NAMES.items()
        )
        + "\nWith their processes {ours[all_gb]:.2f} GB for both ends; the machine's available memory fell by "
        "{ours[available_fell_gb]:.2f} GB. {ours[kernel_share]:.0%} of the kernel's share are the server's."
    ),
    experiment=_experiment,
    ratios={
        "echo_websockets": Ratio("echo_per_s", "websockets_echo_per_s"),
        "echo_picows": Ratio("echo_per_s", "picows_echo_per_s"),
        "echo_cpu_websockets": Ratio("echo_per_cpu_s", "websockets_echo_per_cpu_s"),
        "echo_cpu_picows": Ratio("echo_per_cpu_s", "picows_echo_per_cpu_s"),
        "many_websockets": Ratio("many_per_s", "websockets_many_per_s"),
        "many_picows": Ratio("many_per_s", "picows_many_per_s"),
    },
    thresholds=(
        Threshold("ours.sessions_missing", at_most=0),
        Threshold("ours.bytes_per_session", at_most=5600),
        Threshold("ours.server_gb", at_most=6.8),
        Threshold("ours.set_up_per_s", at_least=5000),
        Threshold("ours.evicted_share", at_least=1),
        Threshold("ours.broadcast_per_s", at_least=300_000),
        Threshold("ours.broadcast_p99_ms", at_most=1000),
        Threshold("ours.idle_cpu_percent", at_most=5),
        Threshold("ratio.many_websockets", at_least=4),
        Threshold("ratio.many_picows", at_least=1),
        Threshold("ratio.echo_picows", at_least=0.95),
    ),
    pairs_quick=1,
)
