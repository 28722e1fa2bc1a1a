"""A swarm against a real gateway: what it counts is what is there, and it speaks to nobody else's machine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cli.conftest import Command, dougong

from dougong.errors import Internal, Invalid, NotFound, Overloaded, Unauthenticated
from dougong.evidence import SwarmOptions, quantiles_of, swarm_of
from dougong.evidence.swarm.options import address_of, shares
from dougong.gateway import Asker, Call, Gateway, GatewaySettings, Grant, Patience, Upgrade

__all__ = ["dougong"]
PATIENCE_S = 60.0
MANY = 200


async def authenticate(upgrade: Upgrade) -> Grant:
    if upgrade.headers.get("authorization") != "Bearer right":
        raise Unauthenticated("a token is needed", code="token_missing")
    return Grant(user=upgrade.query["user"], topics=("news",))


async def echo(_: Asker, call: Call) -> bytes:
    if call.method != "echo":
        raise NotFound(f"no method {call.method}", code="no_method")
    return bytes(call.data)


@asynccontextmanager
async def live(patience: Patience | None = None) -> AsyncGenerator[tuple[Gateway, SwarmOptions]]:
    settings = GatewaySettings(patience=patience or Patience(), messages_per_s_max=1e6)
    gateway = Gateway(authenticate, calls=echo, settings=settings)
    port = await gateway.start()
    options = SwarmOptions(
        targets=[f"127.0.0.1:{port}"], sessions=MANY, processes=2, headers={"Authorization": "Bearer right"}
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield gateway, options
    finally:
        await gateway.stop()


async def until(done: Callable[[], Awaitable[bool]]) -> None:
    while not await done():
        await asyncio.sleep(0.05)


@pytest.mark.processes
async def test_all_connect_live_call_and_hear() -> None:
    async with live() as (gateway, options), swarm_of(options) as swarm:
        connected = await swarm.connect()
        assert (connected.open, connected.refused, len(gateway)) == (MANY, {}, MANY)
        assert len(gateway.connections(user="0")) == len(gateway.connections(user=str(MANY - 1))) == 1
        assert {shown.ip for shown in gateway.connections(limit=MANY)} == {address_of(0, 0), address_of(1, 0)}

        alive = await swarm.check()
        assert alive.sent == alive.answered == quantiles_of(alive).count == MANY

        closed = await swarm.call(seconds=0.2, in_flight=20)
        assert closed.answered == closed.sent >= 20
        together = await swarm.call(seconds=0.2, in_flight=5, each=8)
        assert together.answered == together.sent >= 40
        on_schedule = await swarm.call(seconds=0.5, rate=100.0)
        assert on_schedule.answered == on_schedule.sent
        assert 40 <= on_schedule.sent <= 52
        refused = await swarm.call("absent", seconds=0.1, rate=100.0)
        assert (refused.answered, refused.failed) == (0, refused.sent)

        for number in range(3):
            # The last is longer than what is read at once.
            told = {"at_us": time.monotonic_ns() // 1000, "text": "x" * (20_000 if number == 2 else 20)}
            data = json.dumps(told).encode()
            await gateway.publish("news", data, keep=False)
        heard = 0

        async def all_told() -> bool:
            nonlocal heard
            counted = await swarm.counted()
            heard += counted.messages.get("news", 0)
            assert quantiles_of(counted).count == counted.messages.get("news", 0)
            return heard >= 3 * MANY

        await until(all_told)
        assert heard == 3 * MANY


@pytest.mark.processes
async def test_those_who_fall_silent_are_given_up_and_no_other() -> None:
    async with live(Patience(ping_every=1, pong=3)) as (gateway, options), swarm_of(options) as swarm:
        await swarm.connect()
        assert (await swarm.mute(7)).muted == 7

        async def given_up() -> bool:
            return (await swarm.report()).muted == 0

        await until(given_up)
        report = await swarm.report()
        assert (report.open, report.muted_lost, report.lost) == (MANY - 7, 7, {})
        assert report.pings > 0
        assert gateway.kick(user="150") == 1  # and what is lost otherwise is told apart

        async def kicked() -> bool:
            return (await swarm.report()).open == MANY - 8

        await until(kicked)
        assert (await swarm.report()).lost == {"4002 closed by an operator": 1}


@pytest.mark.processes
async def test_who_is_refused_is_not_open() -> None:
    async with live() as (_, options):
        wrong = SwarmOptions(targets=options.targets, sessions=20)
        async with swarm_of(wrong) as swarm:
            connected = await swarm.connect()
            assert (connected.open, connected.refused) == (0, {"HTTP/1.1 401 Unauthorized": 20})
            assert (await swarm.check()).sent == 0


@pytest.mark.processes
async def test_who_is_refused_for_now_can_come_again() -> None:
    seen: set[str] = set()

    async def busy(upgrade: Upgrade) -> Grant:
        user = upgrade.query["user"]
        if int(user) % 4 == 0 and user not in seen:
            seen.add(user)
            raise Overloaded("come again")
        return Grant(user=user)

    gateway = Gateway(busy)
    port = await gateway.start()
    try:
        async with (
            asyncio.timeout(PATIENCE_S),
            swarm_of(SwarmOptions(targets=[f"127.0.0.1:{port}"], sessions=40)) as swarm,
        ):
            first = await swarm.connect()
            assert (first.open, sum(first.refused.values())) == (30, 10)
            second = await swarm.connect()
            assert (second.open, second.refused) == (40, {})
            assert second.seconds >= first.seconds  # both times count
            assert (await swarm.connect()).open == 40  # nobody twice
            assert all(len(gateway.connections(user=str(number))) == 1 for number in range(40))
    finally:
        await gateway.stop()


@pytest.mark.processes
async def test_what_ends_with_the_block_leaves_no_port_waiting() -> None:
    async with live() as (gateway, options):
        async with swarm_of(options) as swarm:
            assert (await swarm.connect()).open == MANY
        while len(gateway):
            await asyncio.sleep(0.05)
        port = f":{int(options.targets[0].rpartition(':')[2]):04X}"
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        ours = [line.split() for line in lines if port in line.split()[1] + line.split()[2]]
        assert [one[3] for one in ours] == ["0A"]  # the listener's


@pytest.mark.processes
async def test_nothing_outlives_the_block_and_a_dead_process_is_told() -> None:
    async with live() as (gateway, options):
        async with swarm_of(options) as swarm:
            await swarm.connect()
            os.kill(swarm.pids[-1], signal.SIGKILL)
            with pytest.raises(Internal, match="the swarm ended"):
                await swarm.check()
        assert not any(psutil.pid_exists(pid) for pid in swarm.pids)
        while len(gateway):
            await asyncio.sleep(0.05)


@pytest.mark.processes
def test_from_the_command_line(dougong: Command) -> None:
    ran = dougong("swarm", "127.0.0.1:1", "--sessions", 3, "--seconds", 0, "--json")
    told = ran.json
    assert (ran.code, told["alive"], told["sessions"]["refused"]) == (1, 0, {"Connection refused": 3})
    assert dougong("swarm", "192.0.2.1:80").code == 1


@pytest.mark.parametrize("target", ["192.0.2.1:80", "example.com:80", "127.0.0.1", "127.0.0.1:0", "0.0.0.0:80"])
def test_only_this_machine_is_spoken_to(target: str) -> None:
    with pytest.raises(Invalid, match="loopback"):
        SwarmOptions(targets=[target], sessions=1)


def test_bounds() -> None:
    wrong: list[dict[str, object]] = [
        {"sessions": 0}, {"sessions": 2_000_001}, {"per_s": 0.0}, {"path": "/a\r\nB: c"}, {"targets": []},
    ]  # fmt: skip
    for options in wrong:
        with pytest.raises(Invalid):
            SwarmOptions(**{"targets": ["127.0.0.1:1"], "sessions": 1, **options})  # type: ignore[arg-type]
    with pytest.raises(Invalid, match="do not fit"):
        shares(SwarmOptions(targets=["127.0.0.1:1"], sessions=2_000_000, processes=1))


@given(st.integers(1, 5000), st.integers(0, 40), st.integers(0, 10))
def test_every_session_is_somebodys(sessions: int, processes: int, first: int) -> None:
    options = SwarmOptions(targets=["127.0.0.1:1"], sessions=sessions, processes=processes, first=first)
    parts = shares(options)
    numbers = sorted(number for part in parts for number in range(*part.numbers))
    assert numbers == list(range(first, first + sessions))
    assert sum(part.per_s for part in parts) == pytest.approx(options.per_s)
