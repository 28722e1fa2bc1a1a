"""Run a generator in a process of its own, so that it shares no event loop with whoever judges the figures.

The child is `python -m dougong.evidence`: options as JSON on stdin, the result as JSON on the last line of stdout.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

import msgspec

from dougong.errors import DeadlineExceeded, Error, Internal, error_from
from dougong.evidence.discover import find_rushes
from dougong.evidence.scenario import RushOptions, RushResult, rush

__all__ = ["rush_apart", "serve_one_rush"]

_START_AND_DRAIN_S = 60.0
_CHECK_S = 180.0


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


async def rush_apart(scenario: str, options: RushOptions) -> RushResult:
    """Like `rush`, in another process. `scenario` is the name of its entry point. Raises what the child raised."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "dougong.evidence",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    limit_s = options.seconds + _START_AND_DRAIN_S + (_CHECK_S if options.check else 0.0)
    try:
        async with asyncio.timeout(limit_s):
            out, _ = await child.communicate(msgspec.json.encode(Order(scenario, options)))
    except TimeoutError:
        raise DeadlineExceeded(f"the generator of rush {scenario!r} did not end within {limit_s:.0f} s") from None
    finally:
        if child.returncode is None:
            with suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    try:
        answer = msgspec.json.decode(out.splitlines()[-1], type=Answer)
    except (IndexError, msgspec.DecodeError):
        raise Internal(
            f"the generator of rush {scenario!r} ended with exit code {child.returncode} and no result; "
            f"what it wrote to stderr says why",
            code="generator_failed",
        ) from None
    if answer.result is None:
        raise error_from(answer.family, answer.code, answer.message, {})
    return answer.result


async def serve_one_rush(text: bytes) -> bytes:
    """The child's side."""
    order = msgspec.json.decode(text, type=Order)
    try:
        answer = Answer(await rush(find_rushes()[order.scenario], order.options))
    except Error as error:
        answer = Answer(family=error.family, code=error.code, message=error.message)
    return msgspec.json.encode(answer)
