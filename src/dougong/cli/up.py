"""`dougong up`: start a system, watch it, stop it in order."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.text import Text

from dougong.app import Process, ProcessState, Supervisor, default_system, load_system
from dougong.cli.status import StatusPage
from dougong.http import HttpServer

__all__ = ["up"]

_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "bright_red")


async def up(
    system: Path | None = None,
    *,
    data: Path | None = None,
    console: str = "127.0.0.1:8600",
    quiet: bool = False,
) -> int:
    """Start every app of a system as its own process, restart what dies, serve the status page.

    Ctrl-C stops in reverse order, finishing what was accepted; a second Ctrl-C stops at once.

    Parameters
    ----------
    system
        System file; `system.toml` here, or the shop, if left out.
    data
        Directory of databases, keys and logs; `var/NAME` if left out.
    console
        `host:port` of the status page.
    quiet
        Print only what goes wrong, not the processes' own lines.
    """
    path = system or default_system()
    spec = load_system(path)
    out = Output({name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(spec.apps)}, quiet=quiet)
    supervisor = Supervisor(
        spec,
        path,
        data or Path("var") / spec.name,
        on_line=out.line,
        on_change=out.change,
        ports=[(console, "the status page", "--console")],
    )
    stopping = asyncio.Event()
    _on_ctrl_c(supervisor, stopping, out)
    started = time.monotonic()
    starting = asyncio.create_task(supervisor.start())
    waiting = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait([starting, waiting], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
            return 130
        await starting
        host, _, port = console.rpartition(":")
        page = HttpServer(StatusPage(supervisor), host, int(port))
        await page.start()
        out.ready(supervisor, f"http://{console}", time.monotonic() - started)
        await waiting
        await page.stop(0.5)
    finally:
        waiting.cancel()
        await supervisor.stop()
    out.say("stopped")
    return 0


class Output:
    """Everything that `up` prints: the merged lines of all processes, one colour each, and its own words."""

    def __init__(self, colours: dict[str, str], *, quiet: bool) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._colours = colours
        self._quiet = quiet
        self._width = max(map(len, colours), default=0) + 3

    def line(self, process: str, text: str) -> None:
        """A line of a process."""
        if self._quiet and "error" not in text.lower() and "ended with" not in text:
            return
        colour = self._colours.get(process.rpartition("-")[0] or process, "white")
        self._console.print(Text.assemble((f"{process:<{self._width}}", colour), "│ ", text))

    def change(self, process: Process) -> None:
        """A process changed its state."""
        if process.state is ProcessState.SERVING and process.restarts:
            self.line(process.name, f"serves again (restart {process.restarts})")

    def say(self, text: str) -> None:
        """Words of `up` itself."""
        self._console.print(Text.assemble((f"{'up':<{self._width}}", "bold"), "│ ", text))

    def ready(self, supervisor: Supervisor, console: str, seconds: float) -> None:
        """URLs and three things to try."""
        fronts = [p for p in supervisor.processes if p.spec.http]
        lines = [f"{len(supervisor.processes)} processes serve after {seconds:.1f} s, data in {supervisor.data}"]
        lines += [f"{p.name}: http://{p.http}  (documentation: http://{p.http}/docs)" for p in fronts]
        lines.append(f"status: {console}")
        lines.append("try:  dougong rush --rate 500 --seconds 10 --check     orders, and the books after them")
        lines.append("      dougong services                               who is where")
        lines.append("      kill -9 a process above                        and watch it come back")
        lines.append("Ctrl-C stops")
        for line in lines:
            self.say(line)
        sys.stdout.flush()


def _on_ctrl_c(supervisor: Supervisor, stopping: asyncio.Event, out: Output) -> None:
    def stop() -> None:
        if stopping.is_set():
            out.say("stopping at once")
            supervisor.kill()
        else:
            out.say("stopping in order; Ctrl-C again stops at once")
            stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
