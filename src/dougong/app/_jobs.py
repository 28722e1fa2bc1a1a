"""An app's jobs: the queue in its database, who works on it in this process, and who fires its schedules."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from dougong.app._app import App
from dougong.app._inject import Injector
from dougong.app._settings import RunSettings
from dougong.app._stamp import stamp_of
from dougong.app._system import JobsSpec, load_system
from dougong.clock import Clock
from dougong.contract import Service
from dougong.errors import Error
from dougong.jobs import (
    Effects,
    Jobs,
    JobsService,
    Queue,
    Scheduler,
    Schedules,
    SchedulesService,
    Worker,
    WorkerSettings,
    open_queue,
)
from dougong.store import Store
from dougong.telemetry import get_logger

__all__ = ["RunningJobs"]

_LOOK_S = 2.0
_FORGET_S = 3600.0

log = get_logger(__name__)


class RunningJobs:
    """The jobs of one app in this process: `open`, then `prepare` who works on them, then run `background`; `stop`."""

    def __init__(self, app: App, store: Store, clock: Clock, queue: Queue, settings: RunSettings) -> None:
        self._app = app
        self._queue = queue
        self._clock = clock
        self._settings = settings
        self._scheduler = Scheduler(queue, store, app.schedules, clock=clock, name=f"{app.name}:{os.getpid()}")
        self._effects = Effects(store, clock)
        self._worker: Worker | None = None
        self._working = False
        self._worked = asyncio.Event()
        self.client = Jobs(queue, app.jobs, clock=clock)
        self.schedules = Schedules(queue, store, clock=clock)
        self.services: tuple[tuple[type[Service], Service], ...] = (
            (JobsService, JobsService(self.client)),
            (SchedulesService, SchedulesService(self.schedules, self.client)),
        )

    @classmethod
    async def open(
        cls,
        app: App,
        store: Store,
        clock: Clock,
        settings: RunSettings,
        spec: JobsSpec,
        stack: AsyncExitStack,
        reopen: Callable[[], Awaitable[Store]],
        prefix: str,
    ) -> RunningJobs:
        """With the tables in `store`, which `reopen` opens once more; `prefix` sets apart what shares a log."""
        queues = {*app.jobs.queues, *spec.queues}
        queue = await open_queue(store, clock, servers=spec.servers, prefix=prefix, queues=queues, reopen=reopen)
        stack.push_async_callback(queue.close)
        made = cls(app, store, clock, queue, settings)
        await made._scheduler.start()
        await made._effects.start()
        return made

    async def prepare(self, injector: Injector, spec: JobsSpec, name: str) -> None:
        """Build what the jobs need, so that a job that cannot run says so before anything is served."""
        needs = {kind: await injector.get(kind, f"a job of {self._app.name}") for kind in self._app.jobs.needs}

        async def provide(kind: type) -> object:
            return needs[kind]

        drain_s = self._settings.drain_s
        self._worker = Worker(
            self._queue,
            self._app.jobs,
            provide=provide,
            settings=WorkerSettings(
                queues=tuple(sorted({*self._app.jobs.queues, *spec.queues})),
                concurrency=spec.concurrency,
                concurrency_of=spec.queues,
                # Half of the time there is: what is served is drained after it.
                drain_s=drain_s / 2,
                grace_s=max(0.1, min(5.0, drain_s / 8)),
            ),
            clock=self._clock,
            name=name,
        )

    def background(self, *, fire: bool) -> Iterator[Coroutine[object, object, None]]:
        """What runs until the process stops."""
        if self._worker is not None:
            yield self._work(self._worker)
            yield self._forget_effects()
            if self._settings.system:
                yield self._follow(self._worker)
        if fire and self._app.schedules:
            yield self._scheduler.run()

    async def stop(self) -> None:
        """Take nothing more; let what runs end, and hand back what does not in time."""
        self._scheduler.stop()
        if self._worker is not None and self._working:
            self._worker.stop()
            await self._worked.wait()

    async def _work(self, worker: Worker) -> None:
        self._working = True
        try:
            await worker.run()
        finally:
            self._worked.set()

    async def _forget_effects(self) -> None:
        """Marks of effects (`JobRun.first`) that were kept long enough."""
        while True:
            await asyncio.sleep(_FORGET_S)
            try:
                await self._effects.sweep()
            except Error as error:
                log.warning("marks of old effects are not forgotten this time", reason=str(error))

    async def _follow(self, worker: Worker) -> None:
        """Read `[apps.NAME.jobs]` again whenever the system file changes, and on SIGHUP."""
        path, profile, name = Path(self._settings.system), self._settings.profile, self._app.name
        asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        with suppress(RuntimeError, ValueError):  # not the main thread
            loop.add_signal_handler(signal.SIGHUP, asked.set)
        seen = await asyncio.to_thread(stamp_of, path)
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await asked.wait()
            now = await asyncio.to_thread(stamp_of, path)
            if now == seen and not asked.is_set():
                continue
            asked.clear()
            seen = now
            try:
                system = await asyncio.to_thread(load_system, path, profile=profile)
                spec = system.apps[name].jobs
            except (Error, KeyError) as error:
                log.warning("the system file cannot be used; the concurrency of jobs stays as it is", reason=str(error))
                continue
            worker.configure(spec.concurrency, spec.queues)
            log.info("concurrency of jobs read again", concurrency=spec.concurrency, queues=str(spec.queues))
