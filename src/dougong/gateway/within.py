"""A deadline that costs nothing when there is nothing to wait for.

Work is begun by itself, and a timer set when it waits for the first time. Most answers that are in memory never do, and
a timer each would be a fifth of what they cost.
"""

from __future__ import annotations

import asyncio
from asyncio import CancelledError
from collections.abc import Awaitable, Coroutine, Generator
from types import CoroutineType
from typing import Generic, TypeVar

__all__ = ["Begun", "begin"]

T = TypeVar("T")


class Begun(Generic[T]):
    """Work that waits for something. To be awaited where it was begun: in the same task, before anything else is."""

    __slots__ = ("_first", "_interrupted", "_steps")

    def __init__(self, steps: Generator[object, object, T] | Coroutine[object, object, T], first: object) -> None:
        self._steps = steps
        self._first = first
        self._interrupted = False

    def interrupt(self) -> None:
        """Before it is awaited: it is cancelled where it waits."""
        self._interrupted = True

    def close(self) -> None:
        """Give it up: nobody will await it."""
        if isinstance(self._steps, Coroutine | Generator):  # what else can be awaited need not have that
            self._steps.close()

    async def within(self, timeout_s: float) -> T:
        """What it comes to. Raises `TimeoutError` when it waits for longer than that."""
        async with asyncio.timeout(timeout_s):
            return await self

    def __await__(self) -> Generator[object, object, T]:
        """The rest of the work, whose first step has led to `first`."""
        steps, first = self._steps, self._first
        try:
            if self._interrupted:
                first = steps.throw(CancelledError())
            while True:
                try:
                    got = yield first
                except BaseException as error:  # noqa: BLE001 (a cancellation, most often: the work's to handle)
                    first = steps.throw(error)
                else:
                    first = steps.send(got)
        except StopIteration as done:
            result: T = done.value
            return result


def begin(work: Awaitable[T]) -> T | Begun[T]:
    """Do it up to where it waits: what it comes to if it never does."""
    steps = work if type(work) is CoroutineType else work.__await__()
    try:
        first = steps.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    return Begun(steps, first)
