"""A process of an experiment: talked to in lines, disturbed at will, and ended with the block that started it."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from dougong.errors import Internal

__all__ = ["Child", "child"]

_ENDS_S = 30.0


class Child:
    """`python -m MODULE ARGUMENTS…`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self._name = name
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

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
                if line:
                    return line.decode().rstrip("\n")
                code = await self._process.wait()
        except TimeoutError:
            raise Internal(f"{self._name} said nothing within {timeout_s} s", code="stand_failed") from None
        raise Internal(f"{self._name} ended with exit code {code}; its stderr says why", code="stand_failed")

    def freeze(self) -> None:
        """It does nothing any more, and does not know."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self._process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """`kill -9`; nothing when it is gone."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        assert self._process.stdout is not None
        with suppress(TimeoutError):  # the end of its output, which processes that it forked may hold a moment longer
            async with asyncio.timeout(_ENDS_S):
                await self._process.stdout.read()


@asynccontextmanager
async def child(module: str, *arguments: str) -> AsyncGenerator[Child]:
    """Start one, and have it killed at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    started = Child(f"{module} {arguments[0] if arguments else ''}".rstrip(), process)
    try:
        yield started
    finally:
        await started.kill()
