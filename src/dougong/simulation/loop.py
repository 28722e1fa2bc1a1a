"""The loop of a simulated world: time passes only when nobody can run, and a seed decides who runs first.

It has nothing to wait for but its own timers: no sockets, no threads, no signals. So a second of the world costs
nothing, and what happened once happens again. Callbacks run in rounds, as on any loop (what a round makes ready runs in
the next one), but within a round in an order that the seed shuffles: code that depends on who was woken first is found.

Every callback belongs to an *owner* (a process on a simulated node) or to the world. When an owner is dead its
callbacks are dropped, which is what a crash is: code that stops at whatever await it had reached, and never goes on.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
import sys
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

if TYPE_CHECKING:
    from asyncio import SelectorEventLoop as _Loop  # for which nothing is abstract
else:
    from asyncio import AbstractEventLoop as _Loop  # which does nothing by itself

__all__ = ["Owner", "Stuck", "VirtualLoop"]

T = TypeVar("T")

_STACKS_SHOWN = 20


class Stuck(Exception):
    """The world cannot go on, or does not come to an end."""


class Owner(Protocol):
    """Whom callbacks belong to."""

    alive: bool
    fuse: int
    """Callbacks until its death; negative: none is set."""
    still: list[Any] | None
    """While it stands still: its callbacks that would have run. None when it does not."""
    tasks: list[asyncio.Task[Any]]

    def burn_out(self) -> None:
        """The fuse has burned down: die."""


class _Task(asyncio.Task[T]):
    """A task that knows its owner, and whose place in a set does not depend on its address in memory."""

    __slots__ = ("life", "number", "owner")

    def __init__(
        self,
        work: Coroutine[Any, Any, T],
        *,
        loop: VirtualLoop,
        name: str | None,
        context: contextvars.Context,
        owner: Owner | None,
        number: int,
    ) -> None:
        self.owner = owner
        self.number = number
        self.life = context
        super().__init__(work, loop=loop, name=name if name is not None else f"task-{number}", context=context)

    def __hash__(self) -> int:
        return self.number


class _Handle:
    """A callback to come. What asyncio needs of `Handle` and `TimerHandle`."""

    __slots__ = ("_when", "args", "callback", "context", "owner")

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[object, ...],
        context: contextvars.Context,
        owner: Owner | None,
        when: float,
    ) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.context = context
        self.owner = owner
        self._when = when

    def cancel(self) -> None:
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        return self.callback is None

    def when(self) -> float:
        return self._when


class VirtualLoop(_Loop):
    """`VirtualLoop(random)`; `run_until_complete` as with any loop, then `close`.

    Raises `Stuck` when everybody waits for somebody, when `callbacks_max` callbacks have run, or when the time is
    `virtual_s_max`: a world that does not end is a finding, and has to be told as one.
    """

    def __init__(
        self, random_: random.Random, *, callbacks_max: int = 2_000_000, virtual_s_max: float = 100_000.0
    ) -> None:
        self.callbacks = 0
        """How many have run: with the time, this names a moment exactly."""
        self._random = random_.random
        self._callbacks_max = callbacks_max
        self._virtual_s_max = virtual_s_max
        self._now = 0.0
        self._ready: list[_Handle] = []
        self._timers: list[tuple[float, int, _Handle]] = []
        self._timers_made = 0
        self._owner: Owner | None = None
        self._nobody = contextvars.Context()
        self._tasks: list[asyncio.Task[Any]] = []
        """The world's own."""
        self._tasks_made = 0
        self._buried: list[asyncio.Task[Any]] = []
        """Unfinished tasks of the dead, kept so that nothing of them runs before the world is over."""
        self._running = False
        self._stopping = False
        self._closed = False
        self.on_error: Callable[[str, BaseException], None] = _raise
        """Told of a callback that raised."""

    # What tasks and futures use

    def time(self) -> float:
        return self._now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> _Handle:
        task = getattr(callback, "__self__", None)
        owner = task.owner if isinstance(task, _Task) else self._owner
        handle = _Handle(callback, args, context if context is not None else contextvars.copy_context(), owner, 0.0)
        if not self._closed:
            self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]  # there is one thread

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> _Handle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> _Handle:
        context = context if context is not None else contextvars.copy_context()
        handle = _Handle(callback, args, context, self._owner, when)
        if not self._closed:
            self._timers_made += 1
            heapq.heappush(self._timers, (when, self._timers_made, handle))
        return handle

    def later(self, delay_s: float, callback: Callable[..., object], *args: object) -> _Handle:
        """As `call_later`, on nobody's behalf: it happens whoever dies."""
        handle = _Handle(callback, args, self._nobody, None, self._now + delay_s)
        if not self._closed:
            self._timers_made += 1
            heapq.heappush(self._timers, (self._now + delay_s, self._timers_made, handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, T] | Generator[Any, Any, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
        owner: Owner | None = None,
    ) -> asyncio.Task[T]:
        """`owner`: whose task it is, by default the running callback's."""
        work = cast("Coroutine[Any, Any, T]", coro)
        if self._closed:
            work.close()
            raise RuntimeError("the simulated world is over")
        self._tasks_made += 1
        owner = owner if owner is not None else self._owner
        task = _Task(
            work,
            loop=self,
            name=name,
            context=context if context is not None else contextvars.copy_context(),
            owner=owner,
            number=self._tasks_made,
        )
        tasks = self._tasks if owner is None else owner.tasks
        tasks.append(task)
        if len(tasks) & 63 == 0:  # now and then: a callback per task would cost more than the task
            tasks[:] = [task for task in tasks if not task.done()]
        return task

    @property
    def owner(self) -> Owner | None:
        """Whose callback runs now."""
        return self._owner

    def create_world_task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task of the world's own, whoever asks for it."""
        before, self._owner = self._owner, None
        try:
            return self.create_task(work, context=contextvars.Context())
        finally:
            self._owner = before

    def bury(self, owner: Owner) -> None:
        """An owner has died."""
        self._buried += [task for task in owner.tasks if not task.done()]
        owner.tasks.clear()

    def go_on(self, owner: Owner) -> None:
        """An owner that stood still runs what it did not: all at once, as a process does that was asleep."""
        if owner.still is not None:
            self._ready += owner.still
            owner.still = None

    def get_task_factory(self) -> None:
        """None: many processes share this loop, and what makes the tasks of one must not make those of others."""

    def set_task_factory(self, factory: object) -> None:
        """Passed over: see `get_task_factory`."""

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        pass

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return self._closed

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Nobody looked at an error: when that is noticed depends on memory, so it is not part of the world."""

    call_exception_handler = default_exception_handler

    # Running

    def run_until_complete(self, future: Generator[Any, None, T] | Awaitable[T]) -> T:
        self._check_alone()
        main = (
            future if isinstance(future, asyncio.Future) else self.create_task(_awaited(cast("Awaitable[T]", future)))
        )
        main.add_done_callback(lambda _: self.stop())
        self.run_forever()
        return main.result()

    def stop(self) -> None:
        self._stopping = True

    def run_forever(self) -> None:
        self._check_alone()
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(finalizer=_ignored)
        asyncio._set_running_loop(self)
        self._running = True
        self._stopping = False
        try:
            while not self._stopping:
                self._run_round()
        finally:
            self._running = False
            self._owner = None
            asyncio._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)

    def _check_alone(self) -> None:
        if asyncio._get_running_loop() is not None:
            raise RuntimeError(
                "a simulated world takes its thread: run it from plain code, or through asyncio.to_thread"
            )

    def _run_round(self) -> None:
        if not self._ready:
            self._pass_time()
        handles, self._ready = self._ready, []
        count = len(handles)
        if count > 1:
            draw = self._random
            for i in range(count - 1, 0, -1):
                j = int(draw() * (i + 1))
                handles[i], handles[j] = handles[j], handles[i]
        for handle in handles:
            callback = handle.callback
            if callback is None:
                continue
            owner = self._owner = handle.owner
            if owner is not None:
                if not owner.alive:
                    continue
                if owner.still is not None:
                    owner.still.append(handle)
                    continue
                if owner.fuse >= 0:
                    if owner.fuse == 0:
                        self._owner = None
                        owner.burn_out()
                        continue
                    owner.fuse -= 1
            self.callbacks += 1
            try:
                handle.context.run(callback, *handle.args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 (whoever made the world decides)
                self._owner = None
                self.on_error(f"callback {getattr(callback, '__qualname__', callback)!s}", error)
        self._owner = None
        if self.callbacks > self._callbacks_max:
            raise Stuck(f"no end after {self.callbacks} callbacks, at {self._now:.3f} s\n{self.stacks()}")

    def _pass_time(self) -> None:
        """To the next timer of somebody who lives."""
        timers = self._timers
        while timers:
            when, _, handle = timers[0]
            if handle.callback is None or (handle.owner is not None and not handle.owner.alive):
                heapq.heappop(timers)
                continue
            if when > self._virtual_s_max:
                raise Stuck(f"no end after {self._now:.3f} s\n{self.stacks()}")
            self._now = max(self._now, when)
            while timers and timers[0][0] <= self._now:
                self._ready.append(heapq.heappop(timers)[2])
            return
        raise Stuck(f"everybody waits for somebody, since {self._now:.3f} s\n{self.stacks()}")

    def stacks(self) -> str:
        """Where every task waits, those of one place together."""
        places: dict[str, int] = {}
        alive = [task for task in asyncio.all_tasks(self) if task.owner is None or task.owner.alive]  # type: ignore[attr-defined]
        for task in sorted(alive, key=hash):
            frames: list[str] = []
            step: Any = task.get_coro()
            while step is not None and (frame := getattr(step, "cr_frame", None) or getattr(step, "ag_frame", None)):
                frames += traceback.format_list(traceback.extract_stack(frame, limit=1))
                step = getattr(step, "cr_await", None) or getattr(step, "ag_await", None)
            text = f"{getattr(task.owner, 'name', 'the world')}:\n{''.join(frames)}"  # type: ignore[attr-defined]
            places[text] = places.get(text, 0) + 1
        shown = [f"{count} × {text}" if count > 1 else text for text, count in places.items()]
        more = len(shown) - _STACKS_SHOWN
        return "\n".join(shown[:_STACKS_SHOWN]) + (f"\n… and {more} more" if more > 0 else "")

    def close(self) -> None:
        """The end of the world: what is unfinished is thrown away. Whatever its `finally` blocks try has no effect."""
        if self._closed:
            return
        self._closed = True
        self._ready.clear()
        self._timers.clear()
        unfinished = [task for task in asyncio.all_tasks(self) if not task.done()]
        around = asyncio._get_running_loop()
        asyncio._set_running_loop(self)  # so that locks and queues can be left in order
        try:
            for task in sorted(unfinished, key=hash):
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                try:
                    cast("_Task[Any]", task).life.run(cast("Coroutine[Any, Any, Any]", task.get_coro()).close)
                except BaseException:  # noqa: BLE001, S110 (the dead may say what they like)
                    pass
        finally:
            asyncio._set_running_loop(around)
        self._buried.clear()
        self._tasks.clear()

    async def shutdown_asyncgens(self) -> None:
        pass

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        pass

    def run_in_executor(self, executor: object, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        work = next((part for part in getattr(func, "args", ()) if hasattr(part, "__qualname__")), func)
        raise NotImplementedError(
            f"{getattr(work, '__qualname__', type(work).__name__)} would run in a thread: a simulated world has none. "
            "Put what it does behind a protocol, and give the simulation a version that stays on the loop"
        )


async def _awaited(work: Awaitable[T]) -> T:
    return await work


def _ignored(generator: AsyncGenerator[Any, Any]) -> None:
    """An async generator that nobody finished: nothing runs because of memory being freed."""


def _raise(_what: str, error: BaseException) -> None:
    raise error
