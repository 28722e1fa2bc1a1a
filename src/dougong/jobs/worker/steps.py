"""Drives a job's coroutine inside a task that runs many jobs, each in a context of its own.

A task per job costs more than a short job. So a few runner tasks take jobs one after the other, and each job's steps
run in its own `contextvars.Context`, as they would in a task of its own: what it sets, and the tasks it starts, see its
context. `asyncio.current_task()` is the runner, so time-outs and task groups inside a job work as everywhere.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Protocol

from dougong.jobs.worker.run import RUN

__all__ = ["Stepped", "TaskWatch", "steps"]


class Stepped(Protocol):
    """Who wants to know what is on the loop right now."""

    stepping: object | None

    def suspended(self, attempt: Any) -> None:
        """The attempt waits for something for the first time."""


@types.coroutine
def steps(
    coroutine: Coroutine[Any, Any, object], context: Context, attempt: object, on: Stepped
) -> Generator[Any, Any, object]:
    """Run the coroutine to its end, each step in `context`, naming the attempt for as long as it has the loop."""
    run = context.run
    on.stepping = attempt
    try:
        waits_for = run(coroutine.send, None)
    except StopIteration as stop:
        return stop.value
    finally:
        on.stepping = None
    on.suspended(attempt)
    while True:
        try:
            value = yield waits_for
        except GeneratorExit:
            run(coroutine.close)
            raise
        except BaseException as error:  # noqa: BLE001 (cancellation too: it is the coroutine's to take)
            on.stepping = attempt
            try:
                waits_for = run(coroutine.throw, error)
            except StopIteration as stop:
                return stop.value
            finally:
                on.stepping = None
        else:
            on.stepping = attempt
            try:
                waits_for = run(coroutine.send, value)
            except StopIteration as stop:
                return stop.value
            finally:
                on.stepping = None


class TaskWatch:
    """Notes which tasks a job started, to name one that leaves tasks behind. Stands in the loop's task factory, and
    hands on to the one that was there.
    """

    def __init__(self, started: Callable[[Any, asyncio.Task[Any]], None]) -> None:
        self._started = started
        self._loop: asyncio.AbstractEventLoop | None = None
        self._before: Any = None
        self._own: Any = None

    def start(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._before = before = loop.get_task_factory()
        started = self._started
        task_type: Any = asyncio.Task

        def factory(loop: Any, coroutine: Any, **options: Any) -> Any:
            make: Any = before
            task = task_type(coroutine, loop=loop, **options) if make is None else make(loop, coroutine, **options)
            # A task with a context of its own is somebody else's, though the job woke him: a store's writer, say.
            context = options.get("context")
            run = RUN.get() if context is None else context.get(RUN)
            if run is not None:
                started(run, task)
            return task

        self._own = factory
        loop.set_task_factory(factory)

    def stop(self) -> None:
        """Put back what was there, unless somebody put another on top."""
        if self._loop is not None and self._loop.get_task_factory() is self._own:
            self._loop.set_task_factory(self._before)
        self._loop = None
