"""Runs a system on one machine: a process per app instance, restarted when it dies, stopped in reverse order."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

import msgspec

from dougong.app._restart import RestartPolicy
from dougong.app._secrets import ensure_secrets
from dougong.app._system import AppSpec, System
from dougong.errors import Conflict, Unavailable
from dougong.registry import Instance, InstanceState, KeyValue, Registry, open_registry

__all__ = ["Process", "ProcessState", "Supervisor"]

_LOG_LINE_BYTES_MAX = 256 * 1024
_LOOK_S = 0.05


class ProcessState(StrEnum):
    STARTING = "starting"
    SERVING = "serving"
    WAITING = "waiting"
    """Died; waits for its restart."""
    STOPPING = "stopping"
    STOPPED = "stopped"


class Process:
    """One app instance, as the supervisor sees it."""

    def __init__(self, app: str, instance: int, spec: AppSpec) -> None:
        self.app = app
        self.instance = instance
        self.spec = spec
        self.state = ProcessState.STOPPED
        self.pid = 0
        self.restarts = 0
        self.last_exit: int | None = None
        self.address = ""
        self.http = ""
        self.started_us = 0
        self.child: asyncio.subprocess.Process | None = None

    @property
    def name(self) -> str:
        """`orders` for the only instance, `orders-1` for one of several."""
        return self.app if self.spec.instances == 1 else f"{self.app}-{self.instance}"


class Supervisor:
    """Starts, watches, restarts and stops the processes of a system.

    `ports` are others that must be free: (address, who wants it, where to change it). `on_line(process name, line)` gets every line the processes print; `on_change(process)` every change of state. One
    supervisor per data directory: a second one raises `Conflict`.
    """

    def __init__(
        self,
        system: System,
        system_path: Path,
        data: Path,
        *,
        on_line: Callable[[str, str], None],
        on_change: Callable[[Process], None] = lambda process: None,
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
        self._drain_s = drain_s
        self.processes = [Process(name, i, spec) for name, spec in system.apps.items() for i in range(spec.instances)]
        self.registry: Registry
        self._lock = -1
        self._keepers: list[asyncio.Task[None]] = []
        self._looker: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    async def start(self, *, ready_s: float = 60.0) -> None:
        """Start everything and return when all of it serves.

        Raises `Conflict` when this data directory is in use or a port is taken, `Unavailable` when something does not
        get ready in `ready_s` seconds; nothing is left running then.
        """
        self.data.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        try:
            self._check_ports()
            ensure_secrets(self.data / "keys")
            self.registry = await open_registry(f"local://{self.data / 'registry.db'}")
        except BaseException:
            self._release_lock()
            raise
        try:
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
            await self.registry.close()
        self._release_lock()

    def kill(self) -> None:
        """End everything now, unfinished work and all."""
        for process in self.processes:
            _signal(process, signal.SIGKILL)

    def find(self, name: str) -> Process:
        """The process called `name`."""
        return next(p for p in self.processes if p.name == name)

    async def _keep(self, process: Process) -> None:
        """Run one process for ever."""
        policy = RestartPolicy()
        while True:
            policy.started(time.monotonic())
            child = await self._spawn(process)
            code = await self._read(process, child)
            process.last_exit, process.pid, process.child = code, 0, None
            process.restarts += 1
            await self._forget(process)
            delay_s = policy.ended(time.monotonic())
            self._on_line(process.name, f"ended with {_describe(code)}; starts again in {delay_s:.1f} s")
            self._set(process, ProcessState.WAITING)
            await asyncio.sleep(delay_s)

    async def _spawn(self, process: Process) -> asyncio.subprocess.Process:
        self._set(process, ProcessState.STARTING)
        environment = {
            **os.environ,
            **self._environment,
            "DOUGONG_DATA": str(self.data),
            "DOUGONG_INSTANCE": str(process.instance),
            "DOUGONG_SYSTEM": str(self._system_path),
            "DOUGONG_DRAIN_S": str(self._drain_s),
            "PYTHONUNBUFFERED": "1",
        }
        if process.spec.http:
            environment["DOUGONG_HTTP"] = _address(process)
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "dougong.app",
            process.spec.target,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            limit=_LOG_LINE_BYTES_MAX,
            start_new_session=True,  # Ctrl-C is for the supervisor, which stops them in order
        )
        process.child, process.pid, process.started_us = child, child.pid, time.time_ns() // 1000
        if process.spec.nice:
            with suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, child.pid, process.spec.nice)
        return child

    async def _read(self, process: Process, child: asyncio.subprocess.Process) -> int:
        assert child.stdout is not None  # asked for above
        while True:
            try:
                line = await child.stdout.readline()
            except ValueError:  # longer than the limit; asyncio dropped it
                self._on_line(process.name, f"(a line over {_LOG_LINE_BYTES_MAX} bytes was dropped)")
                continue
            if not line:
                return await child.wait()
            self._on_line(process.name, line.decode(errors="replace").rstrip())

    async def _stop_process(self, process: Process) -> None:
        child = process.child
        if child is not None and child.returncode is None:
            self._set(process, ProcessState.STOPPING)
            _signal(process, signal.SIGTERM)
            try:
                async with asyncio.timeout(self._drain_s + 2.0):
                    await self._read(process, child)
            except TimeoutError:
                self._on_line(process.name, f"did not stop within {self._drain_s + 2.0:.0f} s; killed")
                _signal(process, signal.SIGKILL)
                await child.wait()
            process.last_exit = child.returncode
        process.child, process.pid = None, 0
        self._set(process, ProcessState.STOPPED)

    async def _forget(self, process: Process) -> None:
        """Take a dead process out of the registry at once, rather than when its lease runs out."""
        for item in (await self.registry.list(f"/services/apps.{process.app}/")).items:
            if item.lease and _instance_of(item).metadata.get("instance") == str(process.instance):
                await self.registry.revoke(item.lease)

    async def _look(self) -> None:
        """Keep the picture of who serves up to date from the registry."""
        while True:
            serving: dict[tuple[str, str], Instance] = {}
            for item in (await self.registry.list("/services/apps.")).items:
                instance = _instance_of(item)
                if instance.state is InstanceState.SERVING:
                    serving[instance.app, instance.metadata.get("pid", "")] = instance
            for process in self.processes:
                found = serving.get((process.app, str(process.pid)))
                if found is not None and process.state is ProcessState.STARTING:
                    process.address, process.http = found.address, found.metadata.get("http", "")
                    self._set(process, ProcessState.SERVING)
            await asyncio.sleep(_LOOK_S)

    async def _wait_ready(self, ready_s: float) -> None:
        try:
            async with asyncio.timeout(ready_s):
                while not all(p.state is ProcessState.SERVING for p in self.processes):
                    self._changed.clear()
                    broken = next((keeper for keeper in self._keepers if keeper.done()), None)
                    if broken is not None:
                        broken.result()
                    hopeless = next((p for p in self.processes if p.restarts >= 5), None)
                    if hopeless is not None:
                        raise Unavailable(
                            f"{hopeless.name} ended {hopeless.restarts} times while starting, last with "
                            f"{_describe(hopeless.last_exit)}; its last lines above say why",
                            code="does_not_start",
                        )
                    await self._changed.wait()
        except TimeoutError:
            late = ", ".join(p.name for p in self.processes if p.state is not ProcessState.SERVING)
            raise Unavailable(f"not ready after {ready_s:.0f} s: {late}", code="does_not_start") from None

    def _set(self, process: Process, state: ProcessState) -> None:
        if process.state is not state:
            process.state = state
            self._changed.set()
            self._on_change(process)

    def _take_lock(self) -> None:
        path = self.data / "up.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode() or "unknown"
            os.close(descriptor)
            raise Conflict(
                f"a system is already up on {self.data} (process {holder}); stop it with Ctrl-C there, "
                f"or choose another directory with --data",
                code="already_up",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._lock = descriptor

    def _release_lock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _check_ports(self) -> None:
        for address, who, setting in self._ports:
            check_port(address, who, setting)
        for process in self.processes:
            if process.spec.http:
                check_port(_address(process), process.name, f"http of [apps.{process.app}] in {self._system_path}")


def check_port(address: str, who: str, setting: str) -> None:
    """Raise `Conflict` when `who` could not listen on `address`; `setting` says where to change it."""
    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            raise Conflict(
                f"{who} wants {address}: {error.strerror}; stop who has it, or set another port ({setting})",
                code="port_taken",
                address=address,
            ) from error


def _address(process: Process) -> str:
    host, _, port = process.spec.http.rpartition(":")
    return f"{host}:{int(port) + process.instance if int(port) else 0}"


def _instance_of(item: KeyValue) -> Instance:
    return msgspec.json.decode(item.value, type=Instance)


def _signal(process: Process, number: signal.Signals) -> None:
    if process.child is not None and process.child.returncode is None:
        with suppress(ProcessLookupError):
            process.child.send_signal(number)


def _describe(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
