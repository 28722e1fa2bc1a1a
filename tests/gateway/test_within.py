"""A deadline set when the work first waits: results, errors, cancellation and time all arrive where they should."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import pytest

from dougong.gateway.within import Begun, begin

T = TypeVar("T")


async def within(timeout_s: float, work: Awaitable[T]) -> T:
    begun = begin(work)
    return await begun.within(timeout_s) if isinstance(begun, Begun) else begun


async def test_what_does_not_wait_sets_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once() -> int:
        return 7

    async def fails() -> int:
        raise ValueError("no")

    monkeypatch.setattr(asyncio, "timeout", None)
    assert await within(1.0, at_once()) == 7
    with pytest.raises(ValueError, match="no"):
        await within(1.0, fails())


async def test_what_waits_gets_its_result() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def waits() -> int:
        await asyncio.sleep(0)
        async with asyncio.timeout(60):  # needs the task it runs in
            return await future + await asyncio.to_thread(lambda: 1)

    asyncio.get_running_loop().call_later(0.01, future.set_result, 6)
    assert await within(60.0, waits()) == 7
    assert await within(60.0, asyncio.wait_for(asyncio.sleep(0, 3), 60)) == 3


async def test_what_waits_too_long_is_ended_and_cleans_up() -> None:
    cleaned = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(1)

    with pytest.raises(TimeoutError):
        await within(0.01, waits())
    assert cleaned == [1]
    task = asyncio.create_task(within(60.0, waits()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == [1, 1]
