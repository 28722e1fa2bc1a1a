"""Workers of one port: they share it, are replaced when they die, even out, and drain together."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st
from tests.engines import free_port
from tests.gateway.wire import PATIENCE_S, Peer, head

from dougong.gateway.evening import EveningSettings, surplus

SCRIPT = """
import json, os, sys
from dougong.gateway import Gateway, Grant, GatewaySettings, WorkerSettings, run_workers

async def authenticate(upgrade):
    return Grant(user=upgrade.query["user"])

async def calls(user, call):
    if call.method == "die":
        os._exit(3)
    return json.dumps(os.getpid()).encode()

async def serve(worker):
    return Gateway(authenticate, calls=calls, settings=GatewaySettings(reconnect_s=0.5))

run_workers(serve, count=2, port=int(sys.argv[1]), settings=WorkerSettings(
    drain_s=5.0, rebalance_every_s=0.5, rebalance_share=1.0))
print("over", flush=True)
"""


async def meet(port: int, method: str = "pid") -> tuple[Peer, int]:
    """A session, and the process that has it."""
    while True:
        try:
            peer = Peer(*await asyncio.open_connection("127.0.0.1", port))
        except OSError:
            await asyncio.sleep(0.05)
            continue
        try:
            assert await peer.shake(head("/live?user=1")) == 101
            peer.say(kind="call", id=1, method=method)
            pid = (await peer.told())["data"]
        except EOFError:
            peer.hang_up()
            if method == "die":
                return peer, 0
        else:
            assert isinstance(pid, int)
            return peer, pid


async def both(port: int, but: frozenset[int] = frozenset()) -> set[int]:
    """The two that are there."""
    seen: set[int] = set()
    while len(seen - but) < 2:
        peer, pid = await meet(port)
        peer.hang_up()
        seen.add(pid)
    return seen - but


async def test_they_share_a_port_are_replaced_even_out_and_drain() -> None:
    port = free_port()
    parent = subprocess.Popen([sys.executable, "-c", SCRIPT, str(port)], stdout=subprocess.PIPE, text=True)
    stdout, there = parent.stdout, list[Peer]()
    assert stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            first = await both(port)
            await meet(port, "die")
            while all(_runs(pid) for pid in first):
                await asyncio.sleep(0.02)
            second = await both(port, frozenset(pid for pid in first if not _runs(pid)))
            assert len(second & first) == 1
            crowded = min(second)
            while len(there) < 12:
                peer, pid = await meet(port)
                if pid == crowded:
                    there.append(peer)
                else:
                    peer.hang_up()
            told = await asyncio.gather(*(asyncio.wait_for(peer.next(), 60) for peer in there[-3:]))
            for one in told:  # the youngest are asked to come again, and told when
                assert one.data[:2] == (1013).to_bytes(2, "big")
                assert one.data[2:].startswith(b"reconnect in ")
            parent.send_signal(signal.SIGTERM)
            while parent.poll() is None:
                await asyncio.sleep(0.05)
            assert (parent.returncode, stdout.read()) == (0, "over\n")
            assert not any(_runs(pid) for pid in second)
    finally:
        for peer in there:
            peer.hang_up()
        parent.kill()
        parent.wait()
        stdout.close()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@given(st.lists(st.integers(0, 20_000), min_size=1, max_size=16))
def test_surplus_evens_out_and_then_leaves_all_alone(counts: list[int]) -> None:
    settings = EveningSettings()
    total = sum(counts)
    for _ in range(3000):
        gives = [surplus(counts, mine, settings) for mine in counts]
        if not any(gives):
            break
        for number, give in enumerate(gives):
            assert not give or counts[number] - give >= total / len(counts)  # never below the average
            counts[number] -= give
        for _ in range(sum(gives)):  # those who come again are dealt out evenly
            counts[counts.index(min(counts))] += 1
    average = total / len(counts)
    assert all(mine <= average * 1.2 + 1 or mine - average < len(counts) for mine in counts)
