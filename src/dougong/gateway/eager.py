"""Coroutines begun on the spot, where no task is, in the name of one that goes on with those that have to wait.

Most answers need nobody to wait. A task each would cost more than they do, and one for all a turn of the loop each
time; but what a coroutine does first (a deadline, a task group) may need the task that it runs in. So one stands by:
work is begun as if it ran there, and if it has to wait, that task goes on with it and another one stands by. It is
what `eager_start` does for tasks since Python 3.12, without a task for what does not wait.

    run(step) ──▶ step, in the name of the task that stands by ──▶ nothing waits: the same one stands by
                                                             └──▶ Waiting: that task goes on with it, another stands by
"""

from __future__ import annotations

import asyncio
from asyncio import _enter_task, _leave_task  # meant for who runs coroutines himself: "Extending asyncio" in its manual
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from inspect import CORO_CREATED, getcoroutinestate
from typing import NamedTuple, TypeVarTuple

from dougong.gateway.within import Begun

__all__ = ["Eager", "NewTask", "Waiting"]

Given = TypeVarTuple("Given")
NewTask = Callable[[Coroutine[None, None, None], Context], asyncio.Task[None] | None]
"""(work, context): a task of it, that somebody holds; None when everything ends."""


class Waiting(NamedTuple):
    """What was begun and has to wait, and what awaits it."""

    begun: Begun[bytes]
    rest: Coroutine[None, None, None]


class Eager:
    """Of one event loop. No step sees what another one has set in context variables."""

    def __init__(self, new_task: NewTask) -> None:
        self._new_task = new_task
        self._loop: asyncio.AbstractEventLoop
        self._task: asyncio.Task[None] | None = None
        """Stands by, in this context, for this."""
        self._context: Context
        self._clean: Context
        """The same, as it was."""
        self._handed: asyncio.Future[Waiting]

    def run(self, step: Callable[[*Given], Waiting | None], *given: *Given) -> bool:
        """Run a step; whether it has to wait. What it raises is raised. When everything ends, nothing is run."""
        task = self._task
        if task is None or self._handed.done():
            task = self._task = self._stand_by()
            if task is None:
                return False
        loop, outer = self._loop, None
        try:
            _enter_task(loop, task)
        except RuntimeError:  # we were called by a task
            outer = asyncio.current_task(loop)
            assert outer is not None
            _leave_task(loop, outer)
            _enter_task(loop, task)
        try:
            waiting = self._context.run(step, *given)
        finally:
            _leave_task(loop, task)
            if outer is not None:
                _enter_task(loop, outer)
        if waiting is None:
            if self._context != self._clean:  # variables were set and not reset: nobody else is to see them
                self._handed.cancel()
            return False
        if self._handed.done():
            self._interrupt(waiting, self._context)
        else:
            self._handed.set_result(waiting)
        return True

    def _stand_by(self) -> asyncio.Task[None] | None:
        self._loop = asyncio.get_running_loop()
        self._context = context = copy_context()
        self._clean = context.copy()
        self._handed = handed = self._loop.create_future()
        task = self._new_task(_go_on(handed), context)
        if task is not None:
            task.add_done_callback(lambda _: self._ended(handed, context))
        return task

    def _ended(self, handed: asyncio.Future[Waiting], context: Context) -> None:
        """Cancelled before it went on, most often by a deadline of the work's own: then the work has to hear of it."""
        if not handed.done():
            handed.cancel()
        elif not handed.cancelled():
            waiting = handed.result()
            if getcoroutinestate(waiting.rest) == CORO_CREATED:
                self._interrupt(waiting, context)

    def _interrupt(self, waiting: Waiting, context: Context) -> None:
        waiting.begun.interrupt()
        if self._new_task(waiting.rest, context) is None:
            waiting.begun.close()


async def _go_on(handed: asyncio.Future[Waiting]) -> None:
    await (await handed).rest
