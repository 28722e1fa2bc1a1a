"""kill -9 of every process, at random moments, under load: the books agree and no acknowledged order is missing."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest
from tests.system.conftest import SYSTEM_FILE, free_port, kill, system_on

from dougong.app import ProcessState, Supervisor
from dougong.evidence import RushOptions, rush
from shop.proof import rush as order_rush

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("shop")]

KILLS_EACH = 3
RATE = 1000
SECONDS = 20


async def kill_at_random(supervisor: Supervisor, rng: random.Random, seconds: float) -> list[str]:
    """Kill each process three times, in random order, spread over the time given; who was killed."""
    victims = [process.name for process in supervisor.processes] * KILLS_EACH
    rng.shuffle(victims)
    killed: list[str] = []
    for name in victims:
        await asyncio.sleep(rng.uniform(0.2, 1.8) * seconds / len(victims) / 1.1)
        await kill(supervisor, name, killed)
        killed.append(name)
    return killed


async def test_books_agree_after_kills_at_random_moments(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    lines: list[str] = []
    supervisor = Supervisor(
        system_on(free_port()), SYSTEM_FILE, tmp_path, on_line=lambda name, line: lines.append(f"{name}: {line}")
    )
    await supervisor.start()
    try:
        options = RushOptions(
            rate=RATE,
            seconds=SECONDS,
            transport="grpc",
            keys=True,
            retry=True,
            check=True,
            seed=seed,
            data=str(tmp_path),
        )
        async with asyncio.TaskGroup() as group:
            killing = group.create_task(kill_at_random(supervisor, random.Random(seed), SECONDS))
            rushing = group.create_task(rush(order_rush, options))
        result, killed = rushing.result(), killing.result()
    finally:
        await supervisor.stop()
    where = f"seed {seed}, killed {killed}, refused {result.report.refused}"
    assert len(killed) == KILLS_EACH * len(supervisor.processes), where
    assert result.discrepancies == (), f"{where}: {result.discrepancies}\n" + "\n".join(lines[-80:])
    assert result.report.acknowledged > RATE, where  # it was under load, not standing still


async def test_an_order_acknowledged_before_a_kill_is_there_after_it(tmp_path: Path) -> None:
    supervisor = Supervisor(system_on(free_port()), SYSTEM_FILE, tmp_path, on_line=lambda name, line: None)
    await supervisor.start()
    try:
        load = RushOptions(rate=200, seconds=1, transport="grpc", check=False, data=str(tmp_path))
        first = await rush(order_rush, load)
        for process in supervisor.processes:
            os.kill(process.pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            while not all(p.state is ProcessState.SERVING and p.restarts for p in supervisor.processes):
                await asyncio.sleep(0.05)
        second = await rush(order_rush, RushOptions(rate=200, seconds=1, seed=2, check=True, data=str(tmp_path)))
    finally:
        await supervisor.stop()
    assert first.report.acknowledged > 0
    assert second.discrepancies == ()
