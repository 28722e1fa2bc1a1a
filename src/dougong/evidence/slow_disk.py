"""A disk that is slow to sync, for experiments and tests: each fsync and fdatasync of a process takes longer.

Only the thread that syncs waits, in its system call, as it would for a disk: the process still reads its sockets, runs
its timers and answers what needs no sync. (Stopping the whole process for most of the time would be easier and would
show something else: a machine that hangs.) `strace` delays the calls; nothing else is traced.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Generator, Sequence
from pathlib import Path

from dougong.evidence.claim import NotShown

__all__ = ["slow_syncs"]

_ATTACH_S = 10.0


@contextlib.contextmanager
def slow_syncs(pids: Sequence[int], seconds: float) -> Generator[None]:
    """While it lasts, syncs of these processes (and of their threads) take `seconds` longer.

    Raises `NotShown` where processes may not be traced.
    """
    strace = shutil.which("strace")
    if strace is None:
        raise NotShown("strace is not installed")
    calls = "fsync,fdatasync"
    tracer = subprocess.Popen(  # noqa: S603 (a program we looked up ourselves)
        [
            strace, "-qq", "-f", "-o", "/dev/null", "-e", f"trace={calls}",
            "-e", f"inject={calls}:delay_enter={round(seconds * 1e6)}", *(f"--attach={pid}" for pid in pids),
        ],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        _wait_attached(tracer, pids)
        yield
    finally:
        tracer.terminate()  # it lets go of them, and they go on
        tracer.communicate(timeout=60)


def _wait_attached(tracer: subprocess.Popen[str], pids: Sequence[int]) -> None:
    until = time.monotonic() + _ATTACH_S
    while not all(_traced(pid, tracer.pid) for pid in pids):
        if tracer.poll() is not None:
            raise NotShown(f"this system lets nobody trace: {tracer.communicate()[1].strip()}")
        if time.monotonic() > until:
            raise NotShown(f"strace takes more than {_ATTACH_S:.0f} s to attach")
        time.sleep(0.01)


def _traced(pid: int, by: int) -> bool:
    """All threads of it."""
    try:
        threads = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    except (FileNotFoundError, ProcessLookupError):  # a thread ended meanwhile
        return False
    return bool(threads) and all(f"\nTracerPid:\t{by}\n" in thread for thread in threads)
