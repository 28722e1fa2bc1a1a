"""Systems of sample processes."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import structlog

from dougong.app import Process, ProcessState, Supervisor, load_system
from dougong.telemetry import close_tracing, configure_tracing

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
"""Processes run the code that lies beside these tests, wherever the installed package is."""
PATIENCE_S = 60.0
"""Ends a test that would never end; nothing waits for it otherwise."""

GREETER = '[apps.greeter]\ntarget = "tests.app.sample:greeter"\n'
FRONT = '[apps.front]\ntarget = "tests.app.sample:front"\nhttp = "127.0.0.1:{port}"\n'


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that happens elsewhere."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@dataclass
class Tried:
    """A supervisor and everything it told."""

    supervisor: Supervisor
    lines: list[tuple[str, str]] = field(default_factory=list)
    states: list[tuple[str, ProcessState]] = field(default_factory=list)

    def said(self, text: str) -> bool:
        return any(text in line for _, line in self.lines)


def trying(tmp_path: Path, apps: str, *, data: str = "data", drain_s: float = 5.0) -> Tried:
    """A supervisor, not started, of the apps in a system file."""
    path = tmp_path / "system.toml"
    path.write_text(f'name = "sample"\n{apps}')
    lines: list[tuple[str, str]] = []
    states: list[tuple[str, ProcessState]] = []

    def change(process: Process) -> None:
        states.append((process.name, process.state))

    supervisor = Supervisor(
        load_system(path),
        path,
        tmp_path / data,
        on_line=lambda name, line: lines.append((name, line)),
        on_change=change,
        environment=ENVIRONMENT,
        drain_s=drain_s,
    )
    return Tried(supervisor, lines, states)


@asynccontextmanager
async def running(tmp_path: Path, apps: str, *, data: str = "data", drain_s: float = 5.0) -> AsyncGenerator[Tried]:
    """A started system; what it said is shown when the test fails."""
    tried = trying(tmp_path, apps, data=data, drain_s=drain_s)
    try:
        await tried.supervisor.start(ready_s=PATIENCE_S)
        yield tried
    except BaseException as error:
        error.add_note("\n".join(f"{name}: {line}" for name, line in tried.lines[-40:]))
        raise
    finally:
        await tried.supervisor.stop()


@pytest.fixture(autouse=True)
def telemetry_restored() -> Iterator[None]:
    """Running an app in the test's own process configures that."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    close_tracing()
    configure_tracing("test")


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("DOUGONG_")]:
        monkeypatch.delenv(name)
