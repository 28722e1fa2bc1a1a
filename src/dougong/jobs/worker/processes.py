"""Processes for jobs that need a core of their own, or may crash: each runs one job at a time, and is replaced.

A job is named to its process by module and name and imported there, so it must stand at the top of a module. Whatever
happens to the process happens to that one job: the pipe ends, and the job has failed.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import msgspec

from dougong.clock import SystemClock
from dougong.errors import Internal
from dougong.jobs._protocol import Claimed, Progress
from dougong.jobs.worker.catalog import AnyJob
from dougong.jobs.worker.deciding import error_text
from dougong.jobs.worker.run import RUN, Desk, JobRun
from dougong.telemetry import continue_trace

__all__ = ["JobFailed", "Processes"]

STOP_S = 2.0
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Claimed).decode


class JobFailed(Exception):
    """A job raised in its process. The text is that of the error there, its kind and places included."""

    def __init__(self, text: str, *, invalid: bool, retry_after_s: float | None) -> None:
        super().__init__(text)
        self.text = text
        self.invalid = invalid
        self.retry_after_s = retry_after_s


class _Child:
    """One process, seen from the worker."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs,), name="dougong-job", daemon=True)
        self.process.start()
        theirs.close()
        self.jobs = 0
        self.idle_since = 0.0

    def end(self) -> None:
        """Ask it to go; after a moment, make it."""
        try:
            self.pipe.close()
        except OSError:
            pass
        self.process.join(STOP_S)
        self.kill()

    def kill(self) -> None:
        if self.process.is_alive():
            self.process.kill()
            self.process.join(STOP_S)


class Processes:
    """`run` is called in a thread and takes as long as the job; `kill` may be called from anywhere."""

    def __init__(self, *, jobs_max: int, idle_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._jobs_max = jobs_max
        self._idle_s = idle_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        self._busy: dict[int, _Child] = {}
        self._killed: set[int] = set()
        self.started = 0
        """Processes ever started."""

    def run(self, run: JobRun, job: AnyJob) -> object:
        """Run the job in a process and give what it returned. Raises `JobFailed`, or `Internal` (`job_crashed`)."""
        job_id = run.id
        child = self._take(job_id)
        good = False
        try:
            child.pipe.send_bytes(_where(job, run.claimed))
            while True:
                kind, *values = child.pipe.recv()
                if kind == "progress":
                    run.progress(*values)
                elif kind == "heartbeat":
                    run.heartbeat()
                elif kind == "done":
                    good = True
                    return values[0]
                else:
                    good = True
                    raise JobFailed(values[0], invalid=values[1], retry_after_s=values[2])
        except (EOFError, OSError):
            child.process.join(STOP_S)
            code = child.process.exitcode
            raise Internal(
                f"the process of job {job.name} ended {_how(code)} before the job did; other jobs are not affected",
                code="job_crashed",
                job=job.name,
                exit_code=code if code is not None else 0,
            ) from None
        finally:
            self._give_back(job_id, child, good)

    def kill(self, job_id: int) -> None:
        """End the process that runs the job, if it runs."""
        with self._lock:
            child = self._busy.get(job_id)
            if child is None:
                self._killed.add(job_id)  # its process is being started
                return
        child.process.kill()

    def trim(self) -> None:
        """Let go processes that have been idle for long."""
        now = self._monotonic()
        with self._lock:
            old = [child for child in self._idle if now - child.idle_since > self._idle_s]
            self._idle = [child for child in self._idle if child not in old]
        for child in old:
            child.end()

    def close(self) -> None:
        """End all of them."""
        with self._lock:
            idle, self._idle = self._idle, []
            busy = list(self._busy.values())
        for child in busy:
            child.process.kill()
        for child in idle:
            child.end()

    def _take(self, job_id: int) -> _Child:
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                if child.process.is_alive():
                    self._busy[job_id] = child
                    if job_id in self._killed:
                        child.process.kill()
                    return child
        child = _Child()
        with self._lock:
            self.started += 1
            self._busy[job_id] = child
            if job_id in self._killed:
                child.process.kill()
        return child

    def _give_back(self, job_id: int, child: _Child, good: bool) -> None:
        child.jobs += 1
        with self._lock:
            self._busy.pop(job_id, None)
            self._killed.discard(job_id)
            keep = good and child.jobs < self._jobs_max
            if keep:
                child.idle_since = self._monotonic()
                self._idle.append(child)
        if not keep:
            child.end()


def _how(code: int | None) -> str:
    if code is None:
        return "its answers"
    if code < 0:
        try:
            return f"by {signal.Signals(-code).name}"
        except ValueError:
            return f"by signal {-code}"
    return f"with exit code {code}"


def _where(job: AnyJob, claimed: Claimed) -> bytes:
    return msgspec.msgpack.encode((job.__module__, job.function.__qualname__, _encode(claimed)))


def _serve(pipe: Connection) -> None:
    """What runs in the process: one job after the other, until the pipe ends."""
    # Ctrl-C goes to all processes of a terminal; whether this one stops is the worker's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            module, name, claimed = msgspec.msgpack.decode(pipe.recv_bytes(), type=tuple[str, str, bytes])
        except (EOFError, OSError):
            return
        try:
            value = _run_here(pipe, module, name, _decode(claimed))
            pipe.send(("done", value))
        except BrokenPipeError:
            return
        except SystemExit as exit_:
            pipe.send(("done", None) if not exit_.code else ("failed", error_text(exit_), False, None))
        except BaseException as error:  # noqa: BLE001 (whatever it is, the worker must hear of it)
            family = getattr(error, "family", "")
            pipe.send(("failed", error_text(error), family == "invalid", getattr(error, "retry_after_s", None)))


def _run_here(pipe: Connection, module: str, name: str, claimed: Claimed) -> object:
    __import__(module)
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part)

    run = JobRun(claimed, _PipeDesk(pipe))
    token = RUN.set(run)
    try:
        with continue_trace(claimed.trace):
            result = found.function(**found.arguments(claimed.payload))
        # As JSON types: what the pipe carries must not depend on classes of the job's own.
        return msgspec.to_builtins(result)
    finally:
        RUN.reset(token)


class _PipeDesk(Desk):
    """What the job says goes to the worker."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__(SystemClock(), "")
        self._pipe = pipe

    def progress(self, run: JobRun, progress: Progress) -> None:
        self._pipe.send(("progress", progress.done, progress.total, progress.note))

    def heartbeat(self, run: JobRun) -> None:
        self._pipe.send(("heartbeat",))
