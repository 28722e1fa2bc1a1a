"""A library's worker with all that it starts: one group of processes, killed at once, as a machine would be."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil

from dougong.errors import Internal

__all__ = ["Group", "group", "python"]


class Group:
    """A command and its children."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self._name = name
        self._process = process

    def cpu_s(self) -> float:
        """Used so far, by all that live."""
        return sum(one.cpu_times().user + one.cpu_times().system for one in self._all())

    def memory_mb(self) -> float:
        """Resident, of all that live."""
        return sum(one.memory_info().rss for one in self._all()) / 1e6

    async def tell(self, line: str) -> None:
        """Write a line to its stdin."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()

    async def hear(self, timeout_s: float) -> str:
        """The next line it prints. `Internal` (`stand_failed`) when it ends, or says nothing for so long."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._process.stdout.readline()
        except TimeoutError:
            line = b""
        if not line:
            raise Internal(f"{self._name} said nothing within {timeout_s} s; see its log", code="stand_failed")
        return line.decode().rstrip("\n")

    async def kill(self) -> None:
        """`kill -9` to all of them; nothing when they are gone."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    def _all(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(self._process.pid)
            return [first, *first.children(recursive=True)]
        return []


def python(role: str, *arguments: str) -> Sequence[str]:
    """The command of a process of this experiment."""
    return (sys.executable, "-m", "shop.proof.jobs", role, *arguments)


@asynccontextmanager
async def group(
    command: Sequence[str], environment: Mapping[str, str], log: Path, *, talks: bool = False
) -> AsyncGenerator[Group]:
    """Start one, its stderr appended to `log`, its stdout too unless it `talks`, and have it killed at the end."""
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, **environment},
            stdin=asyncio.subprocess.PIPE if talks else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if talks else file,
            stderr=file,
            start_new_session=True,
        )
    started = Group(" ".join(command), process)
    try:
        yield started
    finally:
        await started.kill()
