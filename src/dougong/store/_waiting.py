"""Units that wait for the next group, on whatever engine it is committed: bounded, in order, each with its caller."""

from __future__ import annotations

import asyncio
import contextvars
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, TypeVar

from dougong.errors import Error, Overloaded, Unavailable
from dougong.store._protocol import Unit

__all__ = ["Outcome", "Waiting", "Writer", "settle"]

R = TypeVar("R")

Waiting = tuple["asyncio.Future[Any]", Unit[Any], contextvars.Context]
Outcome = tuple["asyncio.Future[Any]", BaseException | None, object]


class Writer(ABC):
    """The writing side of one database, bound to one loop. Engines add how a group is run."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, name: str, queued_max: int) -> None:
        self._loop = loop
        self._name = name
        self._queued_max = queued_max
        self._queue: deque[Waiting] = deque()
        self._closing = False
        self.fault: Error | None = None
        """Why the last group failed, until one succeeds."""

    @abstractmethod
    def _wake(self) -> None:
        """Something waits: begin a group with the loop's next turn, unless one is under way. Not at once: whoever is
        ready in this turn shares the first commit."""

    def submit(self, unit: Unit[R]) -> asyncio.Future[R]:
        """Queue a unit; the future settles when it is durable or has failed.

        Cancelling the future before the unit started takes it out; afterwards the unit is kept with its group and only
        its result is dropped.
        """
        if self._closing:
            raise Unavailable(f"store {self._name} is closed", code="closed", store=self._name)
        if len(self._queue) >= self._queued_max:
            raise Overloaded(
                f"store {self._name} has {self._queued_max} units waiting; send less or later",
                code="store_queue_full",
                retry_after_s=0.1,
                store=self._name,
            )
        future: asyncio.Future[R] = self._loop.create_future()
        self._queue.append((future, unit, contextvars.copy_context()))
        self._wake()
        return future


def settle(future: asyncio.Future[Any], failure: BaseException | None, result: object) -> None:
    """Tell a caller, if it still listens."""
    if future.done():
        return
    if failure is None:
        future.set_result(result)
    else:
        future.set_exception(failure)
