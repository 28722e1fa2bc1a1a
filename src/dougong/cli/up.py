"""`dougong up`: start a system, watch it, stop it in order."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import shlex
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TextIO, cast

from dougong.app import Process, ProcessState, Supervisor, default_system, load_system, parse_address
from dougong.cli.output import LogStream, Output
from dougong.cli.status import StatusPage
from dougong.http import HttpServer
from dougong.telemetry import configure_logging

__all__ = ["up"]

_SAME_CTRL_C_S = 0.3
"""Terminals, `make` and wrappers may pass one Ctrl-C on twice."""


async def up(
    system: Path | None = None,
    *,
    profile: str = "",
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
    profile
        Lays `[profiles.NAME]` of the system file over the rest of it; DOUGONG_PROFILE does the same.
    data
        Directory of databases, keys and logs; `var/NAME` if left out.
    console
        `host:port` of the status page.
    quiet
        Leave out what is below a warning.
    """
    host, port = parse_address(console, "--console")
    path = system or default_system()
    spec = load_system(path, profile=profile or os.environ.get("DOUGONG_PROFILE", ""))
    stopping = asyncio.Event()
    supervisor = Supervisor(
        spec,
        path,
        data or Path("var") / spec.name,
        on_line=lambda process, line: out.line(process, line),  # noqa: PLW0108 (it is made below)
        on_change=lambda process: _told(process, out),
        ports=[(console, "the status page", "--console")],
    )
    out = Output([(p.name, p.app) for p in supervisor.processes], quiet=quiet, gone=stopping.set)
    configure_logging("up", json=True, level="warning", stream=cast(TextIO, LogStream(out)))
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
            out.say("stopped while starting")
            return 130
        await starting
        page = StatusPage(supervisor)
        server = HttpServer(page, host, port)
        url = f"http://{console.rpartition(':')[0]}:{await server.start()}"
        where = f" --data {shlex.quote(str(supervisor.data))}" if data or system else ""
        _tell_ready(supervisor, out.say, url, where, time.monotonic() - started)
        await waiting
        await server.stop(0.5)
        await page.close()
    finally:
        waiting.cancel()
        await supervisor.stop()
    out.say("stopped")
    return 0


def _told(process: Process, out: Output) -> None:
    if process.state is ProcessState.SERVING and process.restarts:
        out.line(process.name, f"serves again (restart {process.restarts}, process {process.pid})")


def _tell_ready(supervisor: Supervisor, say: Callable[[str], None], status: str, where: str, seconds: float) -> None:
    """URLs and three things to try, ready to be copied."""
    say(f"{len(supervisor.processes)} processes serve after {seconds:.1f} s, data in {supervisor.data}")
    for process in supervisor.processes:
        if process.front:
            say(f"{process.name}: http://{process.http}  (documentation: http://{process.http}/docs)")
            for page in process.pages:
                say(f"{process.name}: http://{process.http}{page}")
    say(f"status: {status}")
    victim = next((p for p in reversed(supervisor.processes) if not p.front), supervisor.processes[0])
    tries = [
        (f"dougong services{where}", "who is where"),
        (f"kill -9 {victim.pid}", f"{victim.name} dies, and comes back"),
    ]
    if importlib.metadata.entry_points(group="dougong.rushes"):
        tries.insert(0, (f"dougong rush --rate 500 --seconds 10 --check{where}", "orders, and the books after them"))
    width = max(len(command) for command, _ in tries)
    for i, (command, effect) in enumerate(tries):
        say(f"{'' if i else 'try:':<6}{command:<{width}}   {effect}")
    say("Ctrl-C stops")


def _on_ctrl_c(supervisor: Supervisor, stopping: asyncio.Event, out: Output) -> None:
    loop = asyncio.get_running_loop()
    first = 0.0

    def stop() -> None:
        nonlocal first
        if not stopping.is_set():
            first = loop.time()
            out.say("stopping in order; Ctrl-C again stops at once")
            stopping.set()
        elif loop.time() - first > _SAME_CTRL_C_S:
            out.say("stopping at once")
            supervisor.kill()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN or number != signal.SIGHUP:  # nohup is respected
            loop.add_signal_handler(number, stop)
