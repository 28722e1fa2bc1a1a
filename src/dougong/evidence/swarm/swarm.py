"""A swarm from the outside: started, told what to do, and ended with the block."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec

from dougong.errors import Internal
from dougong.evidence.latency import Latencies, Quantiles
from dougong.evidence.swarm import commands
from dougong.evidence.swarm.options import Connected, Counted, SwarmOptions, Timed, shares

__all__ = ["Swarm", "quantiles_of", "swarm_of"]

T = TypeVar("T", Connected, Counted, Timed)
_LINE_BYTES_MAX = 1 << 24
_SPARE_S = 60.0
_ENDS_S = 60.0
"""The kernel takes some seconds to reset a million connections."""


class Swarm:
    """One thing at a time; between commands sessions answer pings and count what comes."""

    def __init__(self, options: SwarmOptions, process: asyncio.subprocess.Process, pids: list[int]) -> None:
        self._options = options
        self._process = process
        self.pids = pids
        """All of its processes."""

    async def connect(self) -> Connected:
        """Open all sessions at the options' pace; again, those that were refused come again."""
        return await self._ask(commands.Connect(), Connected)

    async def report(self) -> Connected:
        """How it stands."""
        return await self._ask(commands.Report(), Connected)

    async def check(self, per_s: float = 20_000.0) -> Timed:
        """Ping each session; `sent` is how many are open, `answered` how many are alive."""
        return await self._ask(commands.Check(per_s=per_s), Timed)

    async def mute(self, count: int) -> Connected:
        """So many sessions answer nothing from now on, pings least of all."""
        return await self._ask(commands.Mute(count=count), Connected)

    async def call(
        self,
        method: str = "echo",
        *,
        bytes_: int = 32,
        seconds: float,
        rate: float = 0.0,
        in_flight: int = 100,
        each: int = 1,
    ) -> Timed:
        """Calls: `rate` a second on schedule, latency from when each was due; at 0, a closed loop of `in_flight`
        sessions with `each` calls under way."""
        return await self._ask(
            commands.Call(method=method, bytes=bytes_, seconds=seconds, rate=rate, in_flight=in_flight, each=each),
            Timed,
        )

    async def counted(self) -> Counted:
        """Published messages that came since last asked; latency from `at_us` in their data (monotonic clock)."""
        return await self._ask(commands.Count(), Counted)

    async def abort(self) -> Connected:
        """Reset all connections without a word."""
        return await self._ask(commands.Abort(), Connected)

    async def _ask(self, command: commands.Command, kind: type[T]) -> T:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")
        patience_s = command.lasts_s(self._options) + 2 * self._options.patience_s + _SPARE_S
        return msgspec.json.decode(await _line(self._process, patience_s), type=kind)


def quantiles_of(timed: Timed | Counted) -> Quantiles:
    """Of its latencies."""
    latencies = Latencies()
    latencies.add_buckets(timed.latency)
    return latencies.quantiles()


@asynccontextmanager
async def swarm_of(options: SwarmOptions) -> AsyncGenerator[Swarm]:
    """Start the processes; they and all sessions end with the block. Raises `Invalid` when it is asked too much."""
    shares(options)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "dougong.evidence.swarm",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES_MAX,
        start_new_session=True,  # Ctrl-C is ours, and ends it by the end of its input
    )
    try:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(options) + b"\n")
        pids = msgspec.json.decode(await _line(process, _SPARE_S), type=list[int])
        yield Swarm(options, process, [process.pid, *pids])
    finally:
        await asyncio.shield(_end(process))


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(_ENDS_S):
            await process.stdout.read()  # until all who hold it are gone
            await process.wait()
    except TimeoutError:
        process.send_signal(signal.SIGKILL)  # its children end when its sockets close
        await process.wait()


async def _line(process: asyncio.subprocess.Process, patience_s: float) -> bytes:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(patience_s):
            line = await process.stdout.readline()
    except TimeoutError:
        raise Internal(f"the swarm said nothing within {patience_s:.0f} s", code="swarm_failed") from None
    if not line.endswith(b"\n"):
        raise Internal("the swarm ended; its stderr says why", code="swarm_failed")
    return line
