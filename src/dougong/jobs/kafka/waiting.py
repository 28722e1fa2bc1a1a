"""What waits in the log: how much of a partition, and each job as its record tells of it."""

from __future__ import annotations

from typing import NamedTuple

from dougong.jobs._protocol import Filter, State, Stored
from dougong.jobs.kafka.records import LogJob

__all__ = ["Depth", "Waiting"]


class Depth(NamedTuple):
    """What of a partition is not settled, as far as the group has committed."""

    low: int
    end: int
    finished: frozenset[int]

    @property
    def records(self) -> int:
        """How many."""
        return max(self.end - self.low - len(self.finished), 0)

    def waits(self, offset: int) -> bool:
        """Whether that record does."""
        return self.low <= offset < self.end and offset not in self.finished

    def needs_row(self, offset: int) -> bool:
        """Whether who reads the partition next would come upon that record: only rows tell him that its jobs ran."""
        return offset >= self.low and offset not in self.finished


class Waiting(NamedTuple):
    """A job in the log. It may have been taken in the last second: then there is a row of its id."""

    id: int
    queue: str
    job: LogJob

    def matches(self, which: Filter) -> bool:
        """Whether it is asked for, as far as its record can tell."""
        return (
            which.job in (None, self.job.job)
            and which.schedule in (None, self.job.schedule)
            and (which.since_us is None or self.job.enqueued_us >= which.since_us)
            and (which.until_us is None or self.job.enqueued_us < which.until_us)
        )

    def stored(self) -> Stored:
        """As people see it."""
        job = self.job
        return Stored(
            id=self.id,
            queue=self.queue,
            job=job.job,
            state=State.WAITING,
            priority=job.priority,
            payload=job.payload,
            attempts=0,
            stalls=0,
            enqueued_us=job.enqueued_us,
            due_us=job.enqueued_us,
            trace=job.trace,
            index=job.index,
            total=job.total,
            schedule=job.schedule,
        )
