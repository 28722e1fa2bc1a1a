"""`run_command`: a shell command as a job, for what a crontab ran.

It runs in a session of its own, so that time-out and cancellation end whatever it started; what it prints is kept with
the job, within bounds; an exit status other than 0 fails it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
from collections.abc import AsyncGenerator, Mapping, Sequence

import msgspec

from dougong.errors import DeadlineExceeded, Internal, Invalid
from dougong.jobs.declare import job

__all__ = ["OUTPUT_BYTES_MAX", "CommandResult", "run_command"]

OUTPUT_BYTES_MAX = 16 * 1024
"""Kept of what a command prints: the first and the last half."""
_HALF = OUTPUT_BYTES_MAX // 2
_SHOWN_CHARS_MAX = 1000
_GRACE_S = 5.0
_PATH = "/usr/bin:/bin"  # cron's own, so that a command means the same here


class CommandResult(msgspec.Struct, frozen=True):
    """How a command ended, and what it printed on standard output and error."""

    exit: int
    output: str
    cut_bytes: int = 0
    """Left out in the middle of `output`."""


@job(name="run_command", queue="commands", retries=0, timeout_s=None)
async def run_command(
    command: str,
    stdin: str = "",
    environment: Mapping[str, str] = {},
    shell: str = "/bin/sh",
    user: str = "",
    timeout_s: float = 3600.0,
) -> CommandResult:
    """Run `shell -c command` with this environment and `PATH HOME LOGNAME SHELL` only, in the user's home.

    `user` other than the worker's needs a worker that runs as root. Raises `Internal` (`command_failed`) with exit
    status and output, `DeadlineExceeded` (`command_timed_out`), `Invalid` (`command_user`).
    """
    account, argv = _account(user), [shell, "-c", command]
    if account.pw_uid != os.geteuid():
        if os.geteuid() != 0:
            raise Invalid(
                f"the command is to run as {user}, and this worker is uid {os.geteuid()}: run one as {user} or root",
                code="command_user",
                user=user,
            )
        argv = ["/usr/sbin/runuser", "-u", account.pw_name, "--", *argv]
    own = {"PATH": _PATH, "HOME": account.pw_dir, "SHELL": shell, **environment, "LOGNAME": account.pw_name}
    home = own["HOME"] if os.access(own["HOME"], os.X_OK) else "/"
    output = _Output()
    async with _printed() as (stdout, end_of_output):
        try:
            process = await _begin(argv, end_of_output, home, own)
        except (OSError, ValueError) as error:
            raise Internal(f"{shell} cannot be started: {error}", code="command_failed") from None
        finally:
            os.close(end_of_output)
        try:
            async with asyncio.timeout(timeout_s):
                exit_ = await _follow(process, stdin, stdout, output)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the command was ended after {timeout_s:g} s; {output.shown()}", code="command_timed_out"
            ) from None
        finally:
            await _end(process)
    if exit_ != 0:
        how = f"exit status {exit_}" if exit_ > 0 else f"signal {-exit_}"
        raise Internal(f"the command ended with {how}; {output.shown()}", code="command_failed", exit=exit_)
    return CommandResult(exit_, output.text(), output.cut_bytes)


def _account(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
    except KeyError:
        raise Invalid(f"there is no user {user or os.geteuid()} here", code="command_user", user=user) from None


class _Output:
    """The first and the last of what was printed."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._tail = bytearray()
        self.cut_bytes = 0

    def add(self, data: bytes) -> None:
        room = _HALF - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        over = len(self._tail) - _HALF
        if over > 0:
            self.cut_bytes += over
            del self._tail[:over]

    def text(self) -> str:
        cut = f"\n[... {self.cut_bytes:,} bytes left out ...]\n".encode() if self.cut_bytes else b""
        return bytes(self._head + cut + self._tail).decode(errors="replace")

    def shown(self) -> str:
        """Its end, for an error."""
        text = self.text().strip()
        return f"it printed: {text[-_SHOWN_CHARS_MAX:]}" if text else "it printed nothing"


@contextlib.asynccontextmanager
async def _printed() -> AsyncGenerator[tuple[asyncio.StreamReader, int]]:
    """A pipe of our own, because one of asyncio's stays open as long as anything that the command left running."""
    ours, theirs = os.pipe()
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours, "rb", 0)
    )
    try:
        yield reader, theirs
    finally:
        transport.close()


async def _begin(
    argv: Sequence[str], output: int, home: str, environment: Mapping[str, str]
) -> asyncio.subprocess.Process:
    """A caller that is cancelled meanwhile ends what has begun: asyncio by itself would end the shell alone."""
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd=home,
            env=environment,
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError, ValueError):
            await _end(await starting)
        raise


async def _follow(
    process: asyncio.subprocess.Process, stdin: str, stdout: asyncio.StreamReader, output: _Output
) -> int:
    async def read() -> None:
        while data := await stdout.read(64 * 1024):
            output.add(data)

    async with asyncio.TaskGroup() as group:
        feeding = group.create_task(_feed(process, stdin))
        reading = group.create_task(read())
        exit_ = await process.wait()
        feeding.cancel()  # it did not want the rest
        # What it left running in the background may hold its output open for ever.
        await asyncio.wait([reading], timeout=1.0)
        reading.cancel()
    return exit_


async def _feed(process: asyncio.subprocess.Process, stdin: str) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(stdin.encode())
        await process.stdin.drain()
        process.stdin.close()  # not waited for: a cancelled wait cancels a future that the loop still sets
    except (BrokenPipeError, ConnectionResetError):
        pass  # it ended, or closed it, without reading all


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the whole session when it is still there; a cancelled caller waits for that too."""
    assert process.stdin is not None
    process.stdin.close()
    if process.returncode is not None:
        return
    _signal(process.pid, signal.SIGTERM)
    ending = asyncio.ensure_future(_wait_or_kill(process))
    try:
        await asyncio.shield(ending)
    except asyncio.CancelledError:
        _signal(process.pid, signal.SIGKILL)
        await ending
        raise


async def _wait_or_kill(process: asyncio.subprocess.Process) -> None:
    try:
        async with asyncio.timeout(_GRACE_S):
            await process.wait()
    except TimeoutError:
        pass
    _signal(process.pid, signal.SIGKILL)  # with what it started: the shell may be gone, and others not have listened
    await process.wait()


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)  # its session's group has its number
    except (ProcessLookupError, PermissionError):
        pass
