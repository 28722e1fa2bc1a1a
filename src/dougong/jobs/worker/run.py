"""The attempt that is running, as the job's own code sees it."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar

from dougong.clock import Clock
from dougong.errors import Invalid
from dougong.jobs._protocol import Claimed, Progress
from dougong.jobs.effects import first_effect
from dougong.store import Tx
from dougong.telemetry import also_log

__all__ = ["NOTE_CHARS_MAX", "RUN", "Desk", "JobRun", "current_job"]

NOTE_CHARS_MAX = 200

RUN: ContextVar[JobRun | None] = ContextVar("dougong_job", default=None)


class Desk:
    """Where attempts of one worker say how they are."""

    def __init__(self, clock: Clock, source: str) -> None:
        self.clock = clock
        self.source = source
        self.reports: dict[int, Progress] = {}
        """By job; whoever writes them down takes them out."""

    def progress(self, run: JobRun, progress: Progress) -> None:
        run.beat_at = self.clock.monotonic()
        self.reports[progress.id] = progress

    def heartbeat(self, run: JobRun) -> None:
        run.beat_at = self.clock.monotonic()


class JobRun:
    """One attempt of a job. Its methods may be called from the job's thread or process as well."""

    __slots__ = ("_desk", "beat_at", "cancelled", "claimed")

    def __init__(self, claimed: Claimed, desk: Desk) -> None:
        self.claimed = claimed
        self.cancelled = False
        """It is asked to end: by somebody, by its time-out, or because the worker stops. An `async` job is cancelled
        as well; one in a thread should look here now and then, and return or raise `asyncio.CancelledError`, since
        nobody can stop a thread.
        """
        self.beat_at = 0.0
        """When it last said something, in seconds of the worker's clock."""
        self._desk = desk

    @property
    def id(self) -> int:
        return self.claimed.id

    @property
    def attempt(self) -> int:
        """1 at the first time."""
        return self.claimed.attempt

    @property
    def index(self) -> int:
        """Which shard of a broadcast, from 0."""
        return self.claimed.index

    @property
    def total(self) -> int:
        return self.claimed.total

    @property
    def schedule(self) -> str | None:
        """The schedule that fired it, if one did."""
        return self.claimed.schedule

    @property
    def fire_us(self) -> int | None:
        """The time in the schedule for which it was fired: the same in every attempt, however late that is, and in a
        backfill the past one that it makes up for. A run by hand is for the time at which somebody asked for it. None
        where no schedule fired it.
        """
        return self.claimed.fire_us

    def progress(self, done: int, total: int = 0, note: str = "") -> None:
        """Say how far it is (`total` 0: unknown); also a heartbeat. Cheap: written in batches, the last word counts."""
        self._desk.progress(self, Progress(self.claimed.id, done, total, note[:NOTE_CHARS_MAX]))

    def heartbeat(self) -> None:
        """Say that it is not stuck (`heartbeat_s` of the job)."""
        self._desk.heartbeat(self)

    async def first(self, tx: Tx) -> bool:
        """Whether this job's effect is still to be made: True once, however often the job runs, if what follows is
        written in the same transaction. Its mark is a row beside the effect (see `Effects`): both or neither.
        """
        return await first_effect(tx, self._desk.source, self.claimed.id, self._desk.clock.now_us())


def current_job() -> JobRun:
    """The attempt in which this code runs. Raises `Invalid` (`no_job`) outside of one."""
    run = RUN.get()
    if run is None:
        raise Invalid("no job is running here: current_job() is for a job's own code, in a worker", code="no_job")
    return run


@also_log
def _fields() -> Mapping[str, str | int]:
    run = RUN.get()
    return {} if run is None else {"job": run.claimed.job, "job_id": run.claimed.id}
