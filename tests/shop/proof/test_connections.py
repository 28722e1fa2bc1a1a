"""The claim about long-lived connections: its parts, small, and that each of them can fail."""

from __future__ import annotations

import asyncio
import mmap
import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psutil
import pytest

from dougong.errors import Internal
from dougong.evidence import Figures, NotShown, Setting, Swarm, SwarmOptions, Timed
from dougong.gateway import Patience
from shop.proof.connections import claim, memory
from shop.proof.connections.claim import Plan
from shop.proof.connections.comparing import Comparison
from shop.proof.connections.stand import Server, crowd

pytestmark = pytest.mark.processes
SMALL = Plan(
    sessions=100, hold_s=0.0, patience=Patience(ping_every=1, pong=1), evict_s=30.0,
    beside=Comparison(few=50, seconds=0.1, turns=2, in_flight=8, each=4),
    broadcast_to=100, alone=1, broadcasts=3, broadcast_every_s=0.01, idle_s=0.1,
)  # fmt: skip


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few need no time to settle."""
    monkeypatch.setattr(claim, "_SETTLE_S", 0.1)


async def gone(pids: Sequence[int]) -> None:
    """They have let go of everything; init, who inherits some, may take a moment to bury them."""
    async with asyncio.timeout(60.0):
        while any(map(psutil.pid_exists, pids)):
            await asyncio.sleep(0.05)


async def run(tmp_path: Path, plan: Plan, part: str) -> tuple[Figures, str]:
    """A part of the experiment by that plan: figures, and problems."""
    experiment = claim._Experiment(Setting(quick=True, pairs=1, seed=1, workdir=tmp_path, say=lambda _: None), plan)
    match part:
        case "held":
            figures = await experiment._held()
        case "baseline":
            figures = await experiment.baseline(0)
        case _:
            figures = await experiment.ours(0)
    return figures, "; ".join(await experiment.verify())


async def test_ours_measures_all_that_is_claimed(tmp_path: Path) -> None:
    figures, problems = await run(tmp_path, SMALL, "ours")
    assert problems == ""
    claimed = {t.figure.removeprefix("ours.") for t in claim.connections.thresholds if t.figure.startswith("ours.")}
    assert claimed | {ratio.ours for ratio in claim.connections.ratios.values()} <= figures.keys()
    assert (figures["sessions"], figures["sessions_missing"], figures["evicted_share"]) == (100, 0, 1)
    assert figures["server_gb"] > 0.005  # two processes at least
    samples = msgspec.json.decode((tmp_path / "memory.json").read_bytes(), type=list[memory.Sample])
    assert [one.what for one in samples][:3] == ["before", "empty", "held"]
    assert samples[-1].what == "alone"


async def test_all_baselines_answer_the_same_calls(tmp_path: Path) -> None:
    figures, problems = await run(tmp_path, SMALL, "baseline")
    assert problems == ""
    for kind in ("streams", "websockets", "picows", "uvicorn"):
        assert figures[f"{kind}_bytes"] > 0
        assert figures[f"{kind}_echo_per_s"] > 0
    assert {ratio.baseline for ratio in claim.connections.ratios.values()} <= figures.keys()


async def test_a_call_that_is_not_answered_refutes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = Swarm.call
    times, last = 0, 5 * 2 * (SMALL.beside.turns + 1)  # five servers, one call at a time and many

    async def loses_one(self: Swarm, *, seconds: float, in_flight: int, each: int) -> Timed:
        nonlocal times
        times += 1
        timed = await called(self, seconds=seconds, in_flight=in_flight, each=each)
        timed.answered -= times == last
        return timed

    monkeypatch.setattr(Swarm, "call", loses_one)
    _, problems = await run(tmp_path, SMALL, "baseline")
    assert times == last
    assert re.fullmatch(r"[a-z]+: of [0-9,]+ calls \(many\) [0-9,]+ were answered", problems)


async def test_a_gateway_that_never_asks_keeps_the_silent(tmp_path: Path) -> None:
    plan = msgspec.structs.replace(SMALL, patience=Patience(ping_every=10_000), evict_s=0.5)
    figures, _ = await run(tmp_path, plan, "held")
    assert figures["evicted_share"] == 0


async def test_sessions_that_are_not_there_refute_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fewer(to: Server, sessions: int, per_s: float, *, processes: int = 0) -> SwarmOptions:
        return crowd(to, sessions - 1 if sessions == 120 else sessions, per_s, processes=processes)

    monkeypatch.setattr(claim, "crowd", fewer)
    figures, problems = await run(tmp_path, msgspec.structs.replace(SMALL, sessions=120), "held")
    assert figures["sessions_missing"] == 1
    assert "of 120 sessions 119 answered" in problems
    samples = msgspec.json.decode((tmp_path / "memory.json").read_bytes(), type=list[memory.Sample])
    held = max(
        (one for one in samples if one.what.startswith(("held", "check"))), key=lambda one: one.server + one.kernel
    )
    taken = held.server - samples[1].server
    assert figures["user_bytes"] * 119 == pytest.approx(taken)  # of those that are held, not of those asked for


async def test_a_worker_that_dies_while_all_are_held_ends_it_and_leaves_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stands: list[Server] = []
    looked = memory.sample

    def looks(what: str, server: Sequence[int], clients: Sequence[int]) -> memory.Sample:
        if what == "held":
            os.kill(stands[0].workers[1], signal.SIGKILL)
        return looked(what, server, clients)

    def seen(to: Server, sessions: int, per_s: float, *, processes: int = 0) -> SwarmOptions:
        stands.append(to)
        return crowd(to, sessions, per_s, processes=processes)

    monkeypatch.setattr(claim, "sample", looks)
    monkeypatch.setattr(claim, "crowd", seen)
    with pytest.raises(Internal, match="ended with exit code 1"):
        await run(tmp_path, msgspec.structs.replace(SMALL, hold_s=600.0), "held")
    killed = stands[0].workers[1]
    assert f"process 2 of 2 (pid {killed}) was killed by SIGKILL" in capfd.readouterr().err
    await gone(stands[0].pids)
    samples = msgspec.json.decode((tmp_path / "memory.json").read_bytes(), type=list[memory.Sample])
    assert [one.what for one in samples] == ["before", "empty", "held"]  # what was seen is kept


async def test_what_ends_it_in_the_middle_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ctrl-C does, which cancels."""
    pids: list[int] = []
    held = asyncio.Event()
    looked, loop = memory.sample, asyncio.get_running_loop()

    def looks(what: str, server: Sequence[int], clients: Sequence[int]) -> memory.Sample:
        if what == "held":
            pids.extend([*server, *clients])
            loop.call_soon_threadsafe(held.set)
        return looked(what, server, clients)

    monkeypatch.setattr(claim, "sample", looks)
    running = asyncio.create_task(run(tmp_path, msgspec.structs.replace(SMALL, hold_s=600.0), "held"))
    async with asyncio.timeout(60.0):
        await held.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert len(pids) == 5  # two workers, a client, and the two they were forked from
    await gone(pids)


def test_what_is_not_a_connections_is_not_counted_as_its() -> None:
    """Pages hold notes, which stay with the page; and names that were made for whoever listed `/proc/PID/fd`."""
    told = "slabinfo - version: 2.1\n# name ...\n" + "".join(
        f"{name} {active} {active} {size} 16 1 : tunables 0 0 0 : slabdata {pages} {pages} 0\n"
        for name, active, size, pages in (
            ("TCP", 10, 2304, 8), ("dentry", 30, 192, 3), ("kmalloc-192", 5, 192, 2), ("proc_inode_cache", 20, 696, 4),
            ("task_struct", 9, 5888, 9),
        )
    )  # fmt: skip
    caches, objects = memory._slabs(told)
    page = mmap.PAGESIZE
    assert caches == {"TCP": 8 * page, "dentry": 3 * page - 20 * 192, "kmalloc-192": 2 * page}
    assert objects == {"TCP": 23040, "dentry": 10 * 192}
    assert memory._slabs("") == ({}, {})


async def test_too_small_a_machine_shows_nothing(tmp_path: Path) -> None:
    plan = msgspec.structs.replace(SMALL, sessions=10**9)
    with pytest.raises(NotShown, match="DOUGONG_CONNECTIONS asks for fewer"):
        await run(tmp_path, plan, "held")


def test_the_full_plan_can_be_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    assert claim.plan(quick=False).sessions == 1_200_000
    assert claim.plan(quick=False).hold_s == 600
    monkeypatch.setenv("DOUGONG_CONNECTIONS", "50000")
    monkeypatch.setenv("DOUGONG_CONNECTIONS_MINUTES", "1")
    assert (claim.plan(quick=False).sessions, claim.plan(quick=False).hold_s) == (50_000, 60)


def test_the_servers_part_is_what_is_left_of_it() -> None:
    def at(size: int) -> memory.Sample:
        return memory.Sample(
            what="", at_s=0, server=0, clients=0, caches={}, objects={"TCP": size}, slab=0, available=0, sockets=""
        )

    assert memory.kept_share(at(100), at(1100), at(600)) == 0.5
    assert memory.kept_share(at(100), at(1100), at(850)) == 0.75
    blind = msgspec.structs.replace(at(0), objects={})
    assert memory.kept_share(blind, blind, blind) == 0.5
