"""One app instance as the supervisor sees it, and how to say what became of it."""

from __future__ import annotations

import signal
from collections import deque
from enum import StrEnum

from dougong.app._child import Child
from dougong.app._lines import read_log_line
from dougong.app._ports import parse_address
from dougong.app._system import AppSpec
from dougong.errors import Unavailable

__all__ = ["Process", "ProcessState", "describe_exit", "does_not_start", "last_lines", "own_address"]

_LAST_LINES = 20


class ProcessState(StrEnum):
    """Where a process stands."""

    STARTING = "starting"
    SERVING = "serving"
    WAITING = "waiting"
    """Died; waits for its restart."""
    STOPPING = "stopping"
    STOPPED = "stopped"


class Process:
    """One app instance, as the supervisor sees it."""

    def __init__(self, app: str, instance: int, spec: AppSpec, *, worker: bool = False) -> None:
        self.app = app
        self.instance = instance
        self.spec = spec
        self.worker = worker
        """It serves nothing and works on the app's jobs."""
        self.state = ProcessState.STOPPED
        self.pid = 0
        self.restarts = 0
        self.last_exit: int | None = None
        self.address = ""
        self.http = ""
        self.pages: tuple[str, ...] = ()
        """Paths of what it shows to people."""
        self.started_us = 0
        self.last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self.child: Child | None = None

    @property
    def name(self) -> str:
        """`orders` for the only instance, `orders-1` for one of several, `orders-worker` for who only works."""
        if self.worker:
            return f"{self.app}-worker" + (f"-{self.instance}" if self.spec.workers > 1 else "")
        return self.app if self.spec.processes == 1 else f"{self.app}-{self.instance}"

    @property
    def version(self) -> str:
        """Of what it runs."""
        return self.spec.version if self.worker or self.instance < self.spec.instances else "canary"

    @property
    def front(self) -> str:
        """Where its front is to listen: `host:port` of the app's first instance; empty for none."""
        return "" if self.worker else self.spec.http

    @property
    def live(self) -> str:
        """Where its gateway is to listen, as those of the app's other instances do; empty for none."""
        return "" if self.worker else self.spec.live


def own_address(process: Process, address: str) -> str:
    """Where it listens, of its app's `http`: that port, and one more for each instance after the first."""
    host, port = parse_address(address, f"http of [apps.{process.app}]")
    return f"{f'[{host}]' if ':' in host else host}:{port + process.instance if port else 0}"


def does_not_start(process: Process) -> Unavailable:
    """It ends again and again."""
    times = "once" if process.restarts == 1 else f"{process.restarts} times"
    how = f"last with {describe_exit(process.last_exit)}" if process.last_exit is not None else "without ever running"
    return Unavailable(
        f"{process.name} ended {times} while starting, {how}" + last_lines(process),
        code="does_not_start",
        apps=process.name,
    )


def last_lines(process: Process) -> str:
    """The end of a message about it."""
    if not process.last_lines:
        return f"; {process.name} printed nothing"
    return f"; the last that {process.name} said:" + "".join(
        f"\n  {read_log_line(line)}" for line in process.last_lines
    )


def describe_exit(code: int | None) -> str:
    """As `subprocess` gives it: negative for a signal."""
    if code is not None and code < 0:
        try:
            return f"signal {signal.Signals(-code).name}"
        except ValueError:  # a real-time signal
            return f"signal {-code}"
    return f"exit code {code}"
