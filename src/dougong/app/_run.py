"""One process: builds its apps, serves them, tells the registry, and stops in order when asked to."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from dougong.app._advertise import check_advertise
from dougong.app._app import App
from dougong.app._following import FollowedKeys
from dougong.app._network import check_network, network_probe
from dougong.app._ports import parse_address
from dougong.app._running import Host, Running
from dougong.app._secrets import ensure_secrets, read_secrets
from dougong.app._settings import RunSettings
from dougong.app._system import System, load_system
from dougong.app._urls import registry_url
from dougong.clock import SystemClock
from dougong.errors import Invalid
from dougong.registry import Discovery, FileSnapshots, open_registry
from dougong.telemetry import ProcessMetrics, configure_logging, configure_tracing, get_logger

__all__ = ["run_apps"]

log = get_logger(__name__)


async def run_apps(apps: Sequence[App], settings: RunSettings, *, stop: asyncio.Event | None = None) -> None:
    """Serve `apps` in this process until `stop` is set, or SIGTERM or SIGINT arrives when `stop` is left out.

    Raises what an app's background work raised, after stopping the rest in order.
    """
    _check(apps, settings)
    if stop is None:
        stop = asyncio.Event()
        _stop_on_signals(stop)
    names = "+".join(app.name for app in apps)
    configure_logging(names, json=settings.log_json, level=settings.log_level)
    configure_tracing(names, ratio=settings.trace_ratio)
    process = ProcessMetrics()
    process.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(process.stop)
        host = await stack.enter_async_context(_host(apps, settings))
        serving: list[Running] = []
        async with _given_up_on(stop):
            for app in apps:
                running = Running(host, app, await stack.enter_async_context(AsyncExitStack()))
                await running.build()
                await running.serve()
                serving.append(running)
            _settle_memory()
        await _until(stop, serving, host.keys)
        log.info("stopping")


def _check(apps: Sequence[App], settings: RunSettings) -> None:
    if not apps:
        raise Invalid("no app to run; name one, e.g. shop.orders:app", code="no_app")
    check_network(settings)
    check_advertise(settings)
    names = [app.name for app in apps]
    if len(set(names)) < len(names):
        raise Invalid(f"apps of one process have different names, these are {', '.join(names)}", code="same_app")
    if settings.port and len(apps) > 1:
        raise Invalid(f"port {settings.port} is one, the apps are {len(apps)}: leave it out", code="one_port")
    if sum(bool(app.front) for app in apps) > 1 and parse_address(settings.http, "http")[1]:
        raise Invalid(f"http {settings.http} is one address, but several apps have a front", code="one_port")


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)  # the second Ctrl-C ends it at once

    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, interrupted)


@asynccontextmanager
async def _given_up_on(stop: asyncio.Event) -> AsyncGenerator[None]:
    """Leave the block, wherever it waits, once `stop` is set: nobody waits for a start that is not wanted any more."""
    scope = asyncio.timeout(None)
    try:
        async with scope:
            watcher = asyncio.create_task(_expire(scope, stop))
            try:
                yield
            finally:
                watcher.cancel()
    except TimeoutError:
        if not scope.expired():
            raise


async def _expire(scope: asyncio.Timeout, stop: asyncio.Event) -> None:
    await stop.wait()
    scope.reschedule(asyncio.get_running_loop().time())


def _settle_memory() -> None:
    """What start-up made stays: take it out of the collector's rounds. What it needed for a while goes back."""
    gc.collect()
    gc.freeze()
    # Requests come in batches of thousands of objects without cycles: collecting after every 700 only walks them.
    gc.set_threshold(50_000, 20, 100)
    if sys.platform == "linux":
        with suppress(AttributeError):  # a C library without malloc_trim
            ctypes.CDLL(None).malloc_trim(0)


async def _until(stop: asyncio.Event, serving: Sequence[Running], keys: FollowedKeys) -> None:
    """Run background work until told to stop, and keep up with the keys; raise what any of it raises."""
    if stop.is_set():
        return
    stopping = asyncio.create_task(stop.wait())
    tasks: list[asyncio.Task[None]] = [asyncio.create_task(keys.follow(), name="follow-keys")]
    tasks += [asyncio.create_task(_leave_when_asked(running, stop), name="drain-asked") for running in serving]
    try:
        for running in serving:
            async for coroutine in running.background():
                tasks.append(asyncio.create_task(coroutine))
        waiting: set[asyncio.Task[object]] = {stopping, *tasks}
        while not stopping.done():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        # First who takes work, while all that the work needs is there.
        await asyncio.gather(*(running.stop_working() for running in serving), return_exceptions=True)
        for task in (stopping, *tasks):
            task.cancel()
        await asyncio.gather(stopping, *tasks, return_exceptions=True)


async def _leave_when_asked(running: Running, stop: asyncio.Event) -> None:
    """`dougong services drain` is as good as SIGTERM, from wherever the registry can be reached."""
    request = await running.drain_asked()
    log.info("asked to drain", instance=request.id, reason=request.reason)
    stop.set()


def _system(apps: Sequence[App], path: str, profile: str) -> System | None:
    if not path:
        if profile:
            raise Invalid(f"profile {profile!r} of which system file? Name one: DOUGONG_SYSTEM", code="unknown_profile")
        return None
    system = load_system(Path(path), profile=profile)
    for app in apps:
        if app.name not in system.apps:
            raise Invalid(
                f"system file {path} has no [apps.{app.name}], but one of its targets is the app {app.name!r}: "
                f"call both the same",
                code="invalid_system",
            )
    return system


@asynccontextmanager
async def _host(apps: Sequence[App], settings: RunSettings) -> AsyncGenerator[Host]:
    data = Path(settings.data).absolute()  # noqa: ASYNC240 (looks at the working directory, nothing else)
    system = _system(apps, settings.system, settings.profile)
    ensure_secrets(data / "keys")
    configured = settings.registry or (system.registry if system is not None else "")
    registry = await open_registry(
        configured or registry_url(data),
        patient=True,  # there are snapshots
        insecure_network=settings.insecure_network,
    )
    clock = SystemClock()
    probe, snapshots = network_probe(settings), FileSnapshots(data / "routes")
    discovery = Discovery(registry, clock=clock, probe=probe, snapshots=snapshots)
    try:
        secrets = read_secrets(data / "keys", system.name if system else "dougong", clock)
        yield Host(
            settings=settings,
            system=system,
            registry=registry,
            discovery=discovery,
            secrets=secrets,
            keys=FollowedKeys(data / "keys", secrets, clock),
            clock=clock,
            apps=len(apps),
        )
    finally:
        await discovery.close()
        await registry.close()
