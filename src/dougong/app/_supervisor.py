"""Runs a system on one machine: a process per app instance, restarted when it dies, stopped in reverse order."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil

from dougong.app._child import Child
from dougong.app._claim import claim_directory
from dougong.app._home import home_of
from dougong.app._note import UpNote, write_note
from dougong.app._ports import check_port, parse_address
from dougong.app._process import Process, ProcessState, describe_exit, does_not_start, last_lines, own_address
from dougong.app._restart import EXIT_HOPELESS, RestartPolicy
from dougong.app._secrets import ensure_secrets
from dougong.app._system import AppSpec, System
from dougong.app._urls import configured_registry_url, registry_url
from dougong.errors import Conflict, Error, Invalid, NotFound, Unavailable
from dougong.gateway import hold_port
from dougong.registry import Instance, InstanceState, Registry, open_registry, read_instance
from dougong.telemetry import get_logger

__all__ = ["Supervisor"]

_LOOK_S = 0.05
_STARTS_MAX = 3
"""A process that ends so often before everything serves will not do better the next time."""
_KILL_AFTER_DRAIN_S = 2.0

log = get_logger(__name__)


class Supervisor:
    """Starts, watches, restarts and stops the processes of a system.

    `ports` are others that must be free: (address, who wants it, where to change it). `on_line(process name, line)`
    gets every line the processes print, as it is (`read_log_line` makes it readable), and the supervisor's own about
    them; `on_change(process)` every change of state. One supervisor per data directory: a second one raises `Conflict`.
    """

    def __init__(
        self,
        system: System,
        system_path: Path,
        data: Path,
        *,
        on_line: Callable[[str, str], None],
        on_change: Callable[[Process], None] = lambda _: None,
        ports: Sequence[tuple[str, str, str]] = (),
        environment: dict[str, str] | None = None,
        drain_s: float = 10.0,
    ) -> None:
        self.system = system
        self.data = data.absolute()
        self._system_path = system_path.absolute()
        self._on_line = on_line
        self._on_change = on_change
        self._ports = ports
        self._environment = environment or {}
        surroundings = {**os.environ, **self._environment}
        self.registry_url = configured_registry_url(system, surroundings) or registry_url(self.data)
        self._drain_s = drain_s
        self.processes = [process for name, spec in system.apps.items() for process in _processes(name, spec)]
        self.registry: Registry
        """Open from `start` to `stop`."""
        self._lock = -1
        self._held: list[socket.socket] = []
        """Ports that several processes share, so that nobody else has them while those come and go."""
        self._keepers: list[asyncio.Task[None]] = []
        self._looker: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    async def start(self, *, ready_s: float = 60.0) -> None:
        """Start everything and return when all of it serves.

        Raises `Conflict` when this data directory is in use or a port is taken, `Unavailable` (`does_not_start`) with
        its last lines when something does not get ready in `ready_s` seconds or ends again and again; nothing is left
        running then.
        """
        self._lock = claim_directory(self.data)
        try:
            self._check_ports()
            self._hold_ports()
            ensure_secrets(self.data / "keys")
            write_note(self.data, UpNote(str(self._system_path), self.system.profile))
            self.registry = await open_registry(self.registry_url)
        except BaseException:
            self._let_go()
            raise
        try:
            await self._forget_the_dead()
            self._looker = asyncio.create_task(self._look(), name="supervisor-look")
            for process in self.processes:
                self._keepers.append(asyncio.create_task(self._keep(process), name=f"supervise-{process.name}"))
            await self._wait_ready(ready_s)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop in reverse order of start, each process after it finished what it accepted."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self._keepers.clear()
        for process in reversed(self.processes):
            await self._stop_process(process)
        if self._looker is not None:
            self._looker.cancel()
            await asyncio.gather(self._looker, return_exceptions=True)
            self._looker = None
        if self._lock >= 0:
            await self.registry.close()
        self._let_go()

    def kill(self) -> None:
        """End everything now, unfinished work and all. `stop` still cleans up after it."""
        for process in self.processes:
            if process.child is not None:
                process.child.signal(signal.SIGKILL)

    def find(self, name: str) -> Process:
        """The process called `name`. Raises `NotFound`."""
        for process in self.processes:
            if process.name == name:
                return process
        raise NotFound(f"no process {name!r}; there are {', '.join(p.name for p in self.processes)}")

    async def _keep(self, process: Process) -> None:
        """Run one process for ever."""
        policy = RestartPolicy()
        while True:
            policy.started(time.monotonic())
            self._set(process, ProcessState.STARTING)
            try:
                child = await Child.start(
                    (sys.executable, "-m", "dougong.app", process.spec.target),
                    self._environment_of(process),
                    lambda line: self._line(process, line),
                    nice=process.spec.nice,
                )
            except OSError as error:
                process.last_exit = None
                ended = f"could not be started: {error}"
            else:
                process.child, process.pid, process.started_us = child, child.pid, time.time_ns() // 1000
                process.last_exit = await child.wait()
                ended = f"ended with {describe_exit(process.last_exit)}"
                await self._forget(child.pid)
            process.pid, process.child, process.address, process.http = 0, None, "", ""
            process.restarts += 1
            delay_s = policy.ended(time.monotonic())
            self._set(process, ProcessState.WAITING)
            self._line(process, f"{ended}; starts again {f'in {delay_s:.1f} s' if delay_s else 'at once'}")
            await asyncio.sleep(delay_s)

    def _environment_of(self, process: Process) -> dict[str, str]:
        environment = {
            **os.environ,
            "DOUGONG_LOG_JSON": "true",  # whoever gets the lines knows what is what in them
            **self._environment,
            "DOUGONG_DATA": str(self.data),
            "DOUGONG_REGISTRY": self.registry_url,
            "DOUGONG_PROFILE": self.system.profile,
            "DOUGONG_INSTANCE": str(process.instance),
            "DOUGONG_INSTANCES": str(process.spec.processes),
            "DOUGONG_SYSTEM": str(self._system_path),
            "DOUGONG_SUPERVISOR": str(os.getpid()),
            "DOUGONG_DUTY": "work" if process.worker else "",
            "DOUGONG_DRAIN_S": str(self._drain_s),
            "PYTHONUNBUFFERED": "1",
        }
        # One address for all of them is never what is meant.
        for name in ("DOUGONG_PORT", "DOUGONG_HTTP", "DOUGONG_LIVE"):
            environment.pop(name, None)
        if process.version:
            environment["DOUGONG_VERSION"] = process.version
        if process.front:
            environment["DOUGONG_HTTP"] = own_address(process, process.front)
        if process.live:
            environment["DOUGONG_LIVE"] = process.live
        return environment

    async def _stop_process(self, process: Process) -> None:
        child = process.child
        if child is not None:
            self._set(process, ProcessState.STOPPING)
            child.signal(signal.SIGTERM)
            patience_s = self._drain_s + _KILL_AFTER_DRAIN_S
            try:
                async with asyncio.timeout(patience_s):
                    process.last_exit = await child.wait()
            except TimeoutError:
                self._line(process, f"did not stop within {patience_s:.0f} s; killed")
                child.signal(signal.SIGKILL)
                process.last_exit = await child.wait()
            if process.last_exit:
                await self._forget(child.pid)
        process.child, process.pid, process.address, process.http = None, 0, "", ""
        self._set(process, ProcessState.STOPPED)

    async def _forget(self, *pids: int) -> None:
        """Take dead processes out of the registry at once, rather than when their lease runs out."""
        gone = set(map(str, pids))
        try:
            leases = {i.lease for i in await self._registered() if i.instance.metadata.get("pid") in gone}
            for lease in leases:
                await self.registry.revoke(lease)
        except Error as error:
            log.warning("a dead process stays in the registry until its lease ends", pids=pids, error=str(error))

    async def _forget_the_dead(self) -> None:
        """Whatever the last supervisor could not clean up, because it was killed itself."""
        pids = {i.instance.metadata.get("pid", "") for i in await self._registered()}
        await self._forget(*(int(pid) for pid in pids if pid.isdecimal() and not psutil.pid_exists(int(pid))))

    async def _registered(self) -> list[_Registered]:
        found: list[_Registered] = []
        for item in (await self.registry.list("/services/")).items:
            with suppress(Invalid):  # somebody else's words under our prefix
                found.append(_Registered(item.lease, read_instance(item.key, item.value)))
        home = home_of(self.data)  # others may share the registry, and their process ids mean nothing here
        return [r for r in found if r.lease and r.instance.metadata.get("home") == home]

    async def _look(self) -> None:
        """See from the registry who of those that start serves by now. With nobody starting it is left in peace: it may
        be one that many machines share."""
        silent = False
        while True:
            if not any(process.state is ProcessState.STARTING for process in self.processes):
                await asyncio.sleep(_LOOK_S)
                continue
            try:
                registered = await self._registered()
                silent = False
            except Error as error:  # it is locked, its disk is full: that passes, and we are still here then
                if not silent:
                    log.warning("the registry cannot be read", error=str(error))
                silent, registered = True, []
            serving = {
                i.instance.metadata.get("pid"): i.instance
                for i in registered
                if i.instance.service.startswith(("apps.", "workers.")) and i.instance.state is InstanceState.SERVING
            }
            for process in self.processes:
                found = serving.get(str(process.pid))
                if found is not None and process.state is ProcessState.STARTING:
                    process.address, process.http = found.address, found.metadata.get("http", "")
                    process.pages = tuple(found.metadata.get("pages", "").split())
                    self._set(process, ProcessState.SERVING)
            await asyncio.sleep(_LOOK_S)

    async def _wait_ready(self, ready_s: float) -> None:
        try:
            async with asyncio.timeout(ready_s):
                while not all(p.state is ProcessState.SERVING for p in self.processes):
                    self._changed.clear()
                    for task in (*self._keepers, self._looker):
                        if task is not None and task.done():
                            task.result()  # a fault of ours
                    for process in self.processes:
                        if process.restarts >= _STARTS_MAX or process.last_exit == EXIT_HOPELESS:
                            raise does_not_start(process)
                    await self._changed.wait()
        except TimeoutError:
            late = [p for p in self.processes if p.state is not ProcessState.SERVING]
            names = ", ".join(p.name for p in late)
            raise Unavailable(
                f"not ready after {ready_s:.0f} s: {names}" + last_lines(late[0]), code="does_not_start", apps=names
            ) from None

    def _line(self, process: Process, line: str) -> None:
        process.last_lines.append(line)
        self._on_line(process.name, line)

    def _set(self, process: Process, state: ProcessState) -> None:
        if process.state is not state:
            process.state = state
            self._changed.set()
            self._on_change(process)

    def _let_go(self) -> None:
        while self._held:
            self._held.pop().close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _check_ports(self) -> None:
        wanted: dict[str, str] = {}
        asked = list(self._ports)
        for p in self.processes:
            if p.front:
                asked.append((own_address(p, p.front), p.name, f"http of [apps.{p.app}] in {self._system_path}"))
            if p.live and p.instance == 0:  # the others share it
                asked.append((p.live, p.app, f"live of [apps.{p.app}] in {self._system_path}"))
        for address, who, setting in asked:
            other = wanted.setdefault(address, who)
            if other is not who and not address.endswith(":0"):
                raise Conflict(f"{other} and {who} both want {address}; set another ({setting})", code="port_taken")
            check_port(address, who, setting)

    def _hold_ports(self) -> None:
        for name, spec in self.system.apps.items():
            host, port = parse_address(spec.live, f"live of [apps.{name}]") if spec.live else ("", 0)
            if port and spec.processes > 1:
                self._held.append(hold_port(host, port))


def _processes(app: str, spec: AppSpec) -> list[Process]:
    """Workers come last: they stop first, and what they hand back waits for whoever starts."""
    serving = [Process(app, i, spec) for i in range(spec.processes)]
    return serving + [Process(app, i, spec, worker=True) for i in range(spec.workers)]


class _Registered(msgspec.Struct, frozen=True):
    lease: int
    instance: Instance
