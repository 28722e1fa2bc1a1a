"""One process: builds its apps, serves them, tells the registry, and stops in order when asked to."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from dougong.app._app import App
from dougong.app._running import Host, Running
from dougong.app._secrets import ensure_secrets, read_secrets
from dougong.app._settings import RunSettings
from dougong.app._system import load_system
from dougong.clock import SystemClock
from dougong.errors import Invalid
from dougong.registry import Discovery, open_registry
from dougong.telemetry import ProcessMetrics, configure_logging, configure_tracing, get_logger

__all__ = ["run_apps"]

log = get_logger(__name__)


async def run_apps(apps: Sequence[App], settings: RunSettings, *, stop: asyncio.Event | None = None) -> None:
    """Serve `apps` in this process until `stop` is set, or SIGTERM or SIGINT arrives when `stop` is left out.

    Raises what an app's background work raised, after stopping the rest in order.
    """
    if not apps:
        raise Invalid("no app to run; name one, e.g. shop.orders:app")
    if stop is None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    names = "+".join(app.name for app in apps)
    configure_logging(names, json=settings.log_json, level=settings.log_level)
    configure_tracing(names, ratio=settings.trace_ratio)
    process = ProcessMetrics()
    process.start()
    async with _host(settings) as host, AsyncExitStack() as stack:
        stack.push_async_callback(process.stop)
        work: list[Coroutine[object, object, None]] = []
        for app in apps:
            running = Running(host, app, await stack.enter_async_context(AsyncExitStack()))
            await running.build()
            await running.serve()
            work += await running.background()
        _settle_memory()
        log.info("serving", apps=[app.name for app in apps], pid=os.getpid())
        await _until(stop, work)
        log.info("stopping")


def _settle_memory() -> None:
    """What start-up made stays: take it out of the collector's rounds, and give back what it only needed for a while."""
    gc.collect()
    gc.freeze()
    if sys.platform == "linux":
        with suppress(AttributeError):  # a C library without malloc_trim
            ctypes.CDLL(None).malloc_trim(0)


async def _until(stop: asyncio.Event, work: Sequence[Coroutine[object, object, None]]) -> None:
    """Run background work until told to stop; raise what any of it raises."""
    tasks = [asyncio.create_task(coroutine) for coroutine in work]
    stopping = asyncio.create_task(stop.wait())
    try:
        waiting: set[asyncio.Task[object]] = {stopping, *tasks}
        while not stopping.done():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in (stopping, *tasks):
            task.cancel()
        await asyncio.gather(stopping, *tasks, return_exceptions=True)


@asynccontextmanager
async def _host(settings: RunSettings) -> AsyncIterator[Host]:
    data = Path(settings.data).absolute()
    system = load_system(Path(settings.system)) if settings.system else None
    ensure_secrets(data / "keys")
    registry = await open_registry(settings.registry or f"local://{data / 'registry.db'}")
    discovery = Discovery(registry)
    try:
        yield Host(
            settings=settings,
            system=system,
            registry=registry,
            discovery=discovery,
            secrets=read_secrets(data / "keys", system.name if system else "dougong"),
            clock=SystemClock(),
        )
    finally:
        await discovery.close()
        await registry.close()
