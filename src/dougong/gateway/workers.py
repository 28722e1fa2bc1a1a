"""Several processes on one port, because a process holds only so many descriptors, and a core turns only one loop.

A parent that has imported everything forks: what was imported lies in memory once, and `gc.freeze()` keeps the
collector from writing into it, which would make a copy for each. The parent only watches: who dies is replaced, slower
and slower if it dies at once, and SIGTERM drains them all.

    run_workers(serve, count=8, port=8700)

    async def serve(worker: Worker) -> Gateway: ...          # after the fork: makes the gateway, starts no listener

What the kernel deals out evenly and time makes uneven, they even out (`evening`).

SIGHUP replaces the workers one after the other: each drains, and the next one only when there is another in its place.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NoReturn

import msgspec
import uvloop

from dougong.errors import Invalid
from dougong.gateway.evening import Counts, Evening, EveningSettings
from dougong.gateway.gateway import Gateway
from dougong.telemetry import get_logger

__all__ = ["Worker", "WorkerSettings", "hold_port", "run_workers"]

_log = get_logger("dougong.gateway")
_SOON_S, _LONG_S = 0.5, 30.0
_LOOK_S = 0.1


class WorkerSettings(EveningSettings, frozen=True, kw_only=True):
    """How workers of one port live together."""

    host: str = "127.0.0.1"
    drain_s: float = 30.0
    """On SIGTERM clients are asked to go within so long; then the rest is closed."""


class Worker(msgspec.Struct, frozen=True):
    """One process's place among the others."""

    number: int
    count: int


Serve = Callable[[Worker], Awaitable[Gateway]]


def run_workers(serve: Serve, *, count: int, port: int, settings: WorkerSettings | None = None) -> None:
    """Run until SIGTERM or SIGINT, which drains; SIGHUP replaces all workers in turn. Call it before anything has
    threads, and outside of any loop.

    Raises `Invalid` (`cannot_listen`) when the port is taken.
    """
    if count < 1:
        raise Invalid("there must be at least one worker", code="no_workers")
    settings = settings if settings is not None else WorkerSettings()
    held = hold_port(settings.host, port)
    try:
        _Parent(serve, count, held.getsockname()[1], settings).run()
    finally:
        held.close()


def hold_port(host: str, port: int) -> socket.socket:
    """Bind the port without listening: until it is closed it stays ours while workers come and go.

    Raises `Invalid` (`cannot_listen`) when the port is taken.
    """
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Not SO_REUSEADDR: with it on both sides, and nobody listening, a stranger could bind and listen here, too.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, port))
    except OSError as error:
        held.close()
        raise Invalid(f"cannot listen on {host}:{port}: {error.strerror}", code="cannot_listen") from error
    return held


class _Parent:
    def __init__(self, serve: Serve, count: int, port: int, settings: WorkerSettings) -> None:
        self._serve = serve
        self._port = port
        self._settings = settings
        self._counts = Counts(count)
        self._pids: dict[int, int] = {}
        """Worker numbers by process."""
        self._due: dict[int, float] = dict.fromkeys(range(count), 0.0)
        """When to start those that do not run."""
        self._wait_s = dict.fromkeys(range(count), _SOON_S)
        self._started: dict[int, float] = {}
        self._count = count
        self._stopping = False
        self._to_replace: list[int] = []
        """Workers that are to be replaced, the next one first, by their processes."""
        self._going = 0

    def run(self) -> None:
        signals = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP}
        before = {int(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, signals)}
        gc.collect()
        gc.freeze()
        try:
            while self._pids or not self._stopping:
                wait_s = self._start_due(before)
                got = signal.sigtimedwait(signals, min(wait_s, _LOOK_S) if self._to_replace else wait_s)
                if got is not None and got.si_signo == signal.SIGHUP:
                    self._to_replace = list(self._pids)
                elif got is not None and got.si_signo != signal.SIGCHLD:
                    self._stop()
                self._reap()
                self._replace_next()
        finally:
            for pid in self._pids:  # only after a fault of ours
                os.kill(pid, signal.SIGKILL)
            gc.unfreeze()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _start_due(self, mask: set[int]) -> float:
        """Start who should run; how long nobody has to be started."""
        now = time.monotonic()
        for number, due in tuple(self._due.items()):
            if due > now or self._stopping:
                continue
            del self._due[number]
            pid = os.fork()
            if pid == 0:
                self._pids.clear()
                self._be(number, mask)
            self._pids[pid] = number
            self._started[number] = now
        return min((due - now for due in self._due.values()), default=60.0) if not self._stopping else 60.0

    def _stop(self) -> None:
        """A second signal ends what still drains."""
        number = signal.SIGKILL if self._stopping else signal.SIGTERM
        self._stopping = True
        for pid in self._pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _replace_next(self) -> None:
        """Ask the next one to go, if all are there and listen."""
        if not self._to_replace or self._stopping or self._going in self._pids or None in self._counts.all():
            return
        self._going = self._to_replace.pop(0)
        if self._going in self._pids:  # else it died meanwhile, and was replaced
            os.kill(self._going, signal.SIGTERM)

    def _reap(self) -> None:
        while self._pids:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            number = self._pids.pop(pid, None)
            if number is None:
                continue
            self._counts.tell(number, None)
            if self._stopping:
                continue
            now = time.monotonic()
            if status == 0:  # it was asked to go, and has
                self._due[number] = now
                _log.info("worker_replaced", worker=number)
                continue
            lived_s = now - self._started[number]
            wait_s = _SOON_S if lived_s > _LONG_S else min(_LONG_S, self._wait_s[number] * 2)
            self._wait_s[number] = wait_s
            self._due[number] = now + wait_s
            _log.error("worker_died", worker=number, code=os.waitstatus_to_exitcode(status), again_in_s=wait_s)

    # in the child

    def _be(self, number: int, mask: set[int]) -> NoReturn:
        code = 1
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            uvloop.run(self._work(number))
            code = 0
        except BaseException:  # noqa: BLE001 (whatever it is, the parent's stack must not go on here)
            _log.exception("worker_failed", worker=number)
        finally:
            os._exit(code)

    async def _work(self, number: int) -> None:
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, over.set)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it is for the parent, and a terminal sends it to all
        settings, parent = self._settings, os.getppid()
        gateway = await self._serve(Worker(number, self._count))
        await gateway.start(settings.host, self._port, shared=True)
        _log.info("worker_ready", worker=number, port=self._port)
        evening = Evening(gateway, number, self._counts, settings, loop.time())
        while not over.is_set() and os.getppid() == parent:
            evening.step(loop.time())
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await over.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(settings.drain_s):
                await gateway.drain(max(10.0, len(gateway) * 2 / settings.drain_s))
        await gateway.stop()
