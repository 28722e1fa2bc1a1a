"""The rooms with one safeguard missing each: what the story must notice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import structs

from dougong.jobs import Ended, Scheduler, Turn, Want, Worker
from dougong.jobs.schedules.firing import Firing
from dougong.jobs.schedules.rows import Row
from dougong.jobs.worker.queue_time import QueueTime
from dougong.simulation.stories.jobs.place import WatchedQueue
from dougong.store import Tx

__all__ = ["REWRITES", "SAFEGUARDS", "weaken_queue", "weaken_scheduler", "weaken_worker"]

SAFEGUARDS: Mapping[str, str] = {
    "term": "a worker's turn writes nothing when its term is over",
    "holder": "an end is written only while the worker's term holds the job",
    "attempt": "an end is of the attempt that is held",
    "reaping": "what a term that is over held comes back",
    "queue-time": "a worker goes by the queue's time, not its own",
    "recount": "after a turn with an unknown outcome the worker asks what it holds",
    "effects": "the row beside an effect that says that it was",
    "marks": "the rows of keys and unique marks",
    "scheduler-term": "a scheduler writes nothing when its term is over",
    "plan": "a plan is looked at again in the unit that writes it",
    "occurrence": "one row for each fire",
}

REWRITES: Mapping[str, Mapping[str, str]] = {
    "term": {"SELECT until_us FROM dougong_job_workers WHERE term = ? AND closed = 0": "SELECT 1 << 62 WHERE ? > 0"},
    "holder": {"WHERE +j.term = ? AND j.id IN": "WHERE ? > 0 AND j.id IN"},
    "effects": {
        "WHERE source = ? AND job_id = ?": "WHERE source = ? AND job_id = ? AND 0",
        "INSERT INTO dougong_job_effects": "INSERT OR REPLACE INTO dougong_job_effects",
    },
    "marks": {
        "FROM dougong_job_marks WHERE mark IN": "FROM dougong_job_marks WHERE 0 AND mark IN",
        "INSERT INTO dougong_job_marks": "INSERT OR REPLACE INTO dougong_job_marks",
    },
    "occurrence": {
        "FROM dougong_job_occurrences WHERE schedule = ? AND fire_us >= ?": (
            "FROM dougong_job_occurrences WHERE 0 AND schedule = ? AND fire_us >= ?"
        ),
        "INSERT INTO dougong_job_occurrences": "INSERT OR REPLACE INTO dougong_job_occurrences",
    },
}
"""SQL in the place of other, by safeguard."""


class _Unreaped(WatchedQueue):
    """What the dead held stays where it is."""

    async def reap(self) -> int:
        return 0


class _AnyAttempt(WatchedQueue):
    """Takes an end for that of whichever attempt is held now."""

    async def turn(self, term: int, ended: Sequence[Ended], wants: Sequence[Want]) -> Turn:
        rows = await self._store.fetch_all("SELECT id, attempts FROM dougong_jobs WHERE term = ?", (term,))
        attempts = dict(msgspec.convert(rows, list[tuple[int, int]]))
        held = [
            structs.replace(one, claimed=structs.replace(one.claimed, attempt=attempts.get(one.claimed.id, 0)))
            for one in ended
        ]
        return await super().turn(term, held, wants)


class _OwnTime(QueueTime):
    """Does not listen."""

    def heard(self, now_us: int | None) -> None:
        pass


class _Sure(Worker):
    """Believes that a turn without an answer was not written."""

    async def _recount(self) -> None:
        self._unsure = False


class _Termless(Scheduler):
    """Believes that it leads, once it does."""

    async def _holds(self, tx: Tx) -> bool:
        del tx  # who does not look cannot know
        return True


class _Trusting(Firing):
    """Writes what it planned, whatever happened since."""

    async def unchanged(self, tx: Tx, rows: Sequence[Row]) -> list[Row]:
        del tx
        return list(rows)


def weaken_queue(queue: WatchedQueue, without: str) -> None:
    """Take a safeguard away, if it is the queue's."""
    if without == "reaping":
        queue.__class__ = _Unreaped
    elif without == "attempt":
        queue.__class__ = _AnyAttempt


def weaken_worker(worker: Worker, without: str) -> None:
    """The same, if it is the worker's."""
    if without == "recount":
        worker.__class__ = _Sure
    elif without == "queue-time":
        worker._time.__class__ = _OwnTime


def weaken_scheduler(scheduler: Scheduler, without: str) -> None:
    """The same, if it is the scheduler's."""
    if without == "scheduler-term":
        scheduler.__class__ = _Termless
    elif without == "plan":
        scheduler._firing.__class__ = _Trusting
