"""Generators in a process of their own, so that they share no event loop with whoever judges the figures.

The child is `python -m dougong.evidence`: a line of JSON in for each rush, a line of JSON out. It stays for several
rushes, since starting Python costs as much as a short one.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import BinaryIO

import msgspec
import uvloop

from dougong.errors import DeadlineExceeded, Error, Internal, error_from
from dougong.evidence.discover import find_rush
from dougong.evidence.scenario import RushOptions, RushResult, rush

__all__ = ["Generator", "generator", "serve_rushes"]

_DRAIN_S = 60.0
_CHECK_S = 180.0
_LINE_BYTES_MAX = 64 * 1024 * 1024


class Order(msgspec.Struct, frozen=True):
    """What the child is to do."""

    scenario: str
    options: RushOptions


class Answer(msgspec.Struct, frozen=True):
    """What came of it: a result, or an `Error` in pieces."""

    result: RushResult | None = None
    family: str = ""
    code: str = ""
    message: str = ""


class Generator:
    """A child that runs rushes, one after the other."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child

    async def rush(self, scenario: str, options: RushOptions) -> RushResult:
        """Like `evidence.rush`; `scenario` is the name of its entry point. Raises what the child raised."""
        assert self._child.stdin is not None  # both are pipes, see `generator`
        assert self._child.stdout is not None
        limit_s = options.seconds + _DRAIN_S + (_CHECK_S if options.check else 0.0)
        self._child.stdin.write(msgspec.json.encode(Order(scenario, options)) + b"\n")
        try:
            async with asyncio.timeout(limit_s):
                line = await self._child.stdout.readline()
        except TimeoutError:
            raise DeadlineExceeded(f"the generator of rush {scenario!r} did not end within {limit_s:.0f} s") from None
        if not line:
            code = await self._child.wait()
            raise Internal(
                f"the generator of rush {scenario!r} ended with exit code {code}; its stderr says why",
                code="generator_failed",
            )
        answer = msgspec.json.decode(line, type=Answer)
        if answer.result is None:
            raise error_from(answer.family, answer.code, answer.message, {})
        return answer.result


@asynccontextmanager
async def generator() -> AsyncGenerator[Generator]:
    """Start a child; it ends with the block."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "dougong.evidence",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES_MAX,
    )
    try:
        yield Generator(child)
    finally:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()


def serve_rushes(orders: BinaryIO, answers: BinaryIO) -> None:
    """The child's side, until `orders` ends."""
    # A journal grows for as long as its rush lasts and has no cycles: full collections would only walk it, and show as
    # latency of the system under load.
    gc.freeze()
    gc.set_threshold(50_000, 20, 1000)
    # One loop for all: gRPC calls every loop it was ever used on, and complains of those that are closed.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for line in orders:
            answers.write(runner.run(_answer(line)) + b"\n")
            answers.flush()


async def _answer(line: bytes) -> bytes:
    order = msgspec.json.decode(line, type=Order)
    try:
        answer = Answer(await rush(find_rush(order.scenario), order.options))
    except Error as error:
        answer = Answer(family=error.family, code=error.code, message=error.message)
    return msgspec.json.encode(answer)
