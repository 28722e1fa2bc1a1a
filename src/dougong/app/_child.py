"""One operating system process and the lines it prints."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

__all__ = ["Child"]

_LINE_BYTES_MAX = 256 * 1024
_LAST_LINES_S = 1.0


class Child:
    """A started process. Its output is read from start to end, whoever waits for it, so that it never blocks on it."""

    def __init__(self, process: asyncio.subprocess.Process, on_line: Callable[[str], None]) -> None:
        self._process = process
        self._on_line = on_line
        self._reader = asyncio.create_task(self._read(), name=f"output-of-{process.pid}")

    @classmethod
    async def start(
        cls, arguments: Sequence[str], environment: Mapping[str, str], on_line: Callable[[str], None], *, nice: int = 0
    ) -> Child:
        """Start a process in a session of its own. Raises OSError when that is not possible."""
        starting = asyncio.create_task(
            asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=environment,
                limit=_LINE_BYTES_MAX,
                start_new_session=True,  # Ctrl-C is for the supervisor, which stops them in order
            )
        )
        try:
            process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            await _take_back(starting)  # uvloop would kill it as well, and not wait for its end
            raise
        if nice:
            with suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, process.pid, nice)
        return cls(process, on_line)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        """Wait until it has ended and what it printed was read; its exit code, or minus the signal's number.

        Processes that it started and left behind are killed: they would hold its ports, databases and output.
        """
        code = await self._process.wait()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        # One that left the session may still hold the pipe open: it is not waited for.
        await asyncio.wait({self._reader}, timeout=_LAST_LINES_S)
        self._reader.cancel()
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None  # asked for above
        while True:
            try:
                line = await stdout.readline()
            except ValueError:  # longer than the limit; asyncio dropped it
                self._on_line(f"(a line over {_LINE_BYTES_MAX} bytes was dropped)")
                continue
            if not line:
                return
            self._on_line(line.decode(errors="replace").rstrip())


async def _take_back(starting: asyncio.Task[asyncio.subprocess.Process]) -> None:
    with suppress(OSError):  # there is none to take back
        process = await starting
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
