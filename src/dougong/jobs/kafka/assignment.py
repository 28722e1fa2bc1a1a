"""What a member of the group holds of the log: its partitions, and jobs read from them that nobody has taken yet.

A job counts as settled once a row in the database speaks for it. Then whoever reads it again finds the row and passes
over it; so a partition can be handed on at any moment, and what is not settled simply stays in the log for the next.
No clock, no network: the poll thread and the queue tell it what happened.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from dougong.jobs._protocol import PRIORITY_MAX
from dougong.jobs.kafka.offsets import Offsets
from dougong.jobs.kafka.records import LogJob, id_of

__all__ = ["Assignment", "Commit", "Held", "Part"]


class Part(NamedTuple):
    """A partition of a queue's topic."""

    queue: str
    partition: int


class Commit(NamedTuple):
    """What to tell the broker of a partition."""

    part: Part
    offset: int
    metadata: str


class Held:
    """A job that was read and not yet taken."""

    __slots__ = ("id", "job", "offset", "share")

    def __init__(self, share: _Share, offset: int, id_: int, job: LogJob) -> None:
        self.share = share
        self.offset = offset
        self.id = id_
        self.job = job

    @property
    def place(self) -> tuple[int, int]:
        """Partition and offset."""
        return self.share.part.partition, self.offset


class _Share:
    """One partition for as long as it is ours; getting it again is another one."""

    def __init__(self, part: Part, lane: int, offsets: Offsets) -> None:
        self.part = part
        self.lane = lane
        self.offsets = offsets
        self.left: dict[int, int] = {}  # of a record: how many of its jobs are not settled
        self.held = 0
        self.ours = True
        self.committed: tuple[int, str] | None = None


class Assignment:
    """`held_max` jobs are enough to keep workers busy; reading stops there, and where a map could overflow.

    Each queue has its share of them: of one that nobody takes from, since it is paused or busy, jobs must not fill the
    place of others.

    Between being taken and being written down a job may become another's: the database is slow, or we were still for
    longer than a session and do not know it yet. Then another may have run it, and even forgotten its row. So the unit
    that writes asks what is still `mine`.
    """

    def __init__(self, held_max: int, session_s: float) -> None:
        self._held_max = held_max
        self._sure_s = session_s / 2  # the group counts from the last beat that it heard, which was before ours
        self._polled_s = -math.inf
        self._shares: dict[Part, _Share] = {}
        self._waiting: dict[str, list[deque[Held]]] = {}

    @property
    def parts(self) -> Collection[Part]:
        """The partitions that are ours."""
        return self._shares.keys()

    @property
    def held(self) -> int:
        """Jobs read and not taken."""
        return sum(share.held for share in self._shares.values())

    def polled(self, now_s: float) -> None:
        """The group had its say: whatever it took from us until `now_s` was lost."""
        self._polled_s = now_s

    def mine(self, jobs: Iterable[Held], now_s: float) -> list[Held]:
        """Of what was taken, that which nobody else can have been given meanwhile."""
        sure = now_s <= self._polled_s + self._sure_s
        return [held for held in jobs if sure and held.share.ours]

    def gain(self, part: Part, lane: int, start: int, finished: Collection[int] = ()) -> None:
        """It is ours now, from that offset on."""
        self.lose([part])
        self._shares[part] = _Share(part, lane, Offsets(start, finished))

    def lose(self, parts: Iterable[Part]) -> None:
        """Another has them, or will: nothing of them is taken from now on."""
        for part in parts:
            share = self._shares.pop(part, None)
            if share is not None:
                share.ours = False
                lines = self._waiting.get(part.queue, [])
                lines[:] = [deque(held for held in line if held.share.ours) for line in lines]

    def read(self, part: Part, offset: int, jobs: Sequence[LogJob]) -> None:
        """A record arrived; no jobs means that it could not be read, and is passed over."""
        share = self._shares.get(part)
        if share is None or not share.offsets.read(offset):
            return
        if not jobs:
            share.offsets.settle(offset)
            return
        share.left[offset] = len(jobs)
        share.held += len(jobs)
        waiting = self._waiting.get(part.queue)
        if waiting is None:
            waiting = self._waiting[part.queue] = [deque() for _ in range(PRIORITY_MAX + 1)]
        for index, job in enumerate(jobs):
            waiting[min(max(job.priority, 0), PRIORITY_MAX)].append(
                Held(share, offset, id_of(share.lane, offset, index), job)
            )

    def take(self, queue: str, count: int) -> list[Held]:
        """Up to so many, the first by priority, then as they were read."""
        taken: list[Held] = []
        for waiting in self._waiting.get(queue, ()):
            while waiting and len(taken) < count:
                held = waiting.popleft()
                if held.share.ours:
                    held.share.held -= 1
                    taken.append(held)
        return taken

    def give_back(self, jobs: Sequence[Held]) -> None:
        """They were not needed, or could not be written down: as if they had not been taken."""
        for held in reversed(jobs):
            if held.share.ours:
                held.share.held += 1
                self._waiting[held.share.part.queue][min(max(held.job.priority, 0), PRIORITY_MAX)].appendleft(held)

    def settle(self, jobs: Iterable[Held]) -> None:
        """Rows in the database speak for them."""
        for held in jobs:
            left = held.share.left
            if left[held.offset] > 1:
                left[held.offset] -= 1
            else:
                del left[held.offset]
                held.share.offsets.settle(held.offset)

    def commits(self, parts: Iterable[Part] | None = None) -> list[Commit]:
        """What the broker does not know yet, of these partitions or of all."""
        found: list[Commit] = []
        for part in list(self._shares) if parts is None else parts:
            share = self._shares.get(part)
            if share is None:
                continue
            commit = share.offsets.commit()
            if commit != share.committed:
                share.committed = commit
                found.append(Commit(part, *commit))
        return found

    def not_committed(self, parts: Iterable[Part]) -> None:
        """What was said last of these did not arrive: say it again."""
        for part in parts:
            share = self._shares.get(part)
            if share is not None:
                share.committed = None

    def has_read(self, part: Part, offset: int) -> bool:
        """Whether that record came, or is somebody else's to read."""
        share = self._shares.get(part)
        return share is None or share.offsets.next > offset

    def low(self) -> dict[Part, int]:
        """Below these, nobody needs the log any more: the broker was told so."""
        return {part: share.committed[0] for part, share in self._shares.items() if share.committed is not None}

    def holds(self, queue: str) -> int:
        """About how many of a queue could be taken."""
        return sum(share.held for part, share in self._shares.items() if part.queue == queue)

    def missing(self, running: Collection[Part]) -> int:
        """How many more jobs the queues of these partitions have room for."""
        room = self._room
        return sum(max(0, room - self.holds(queue)) for queue in {part.queue for part in running})

    @property
    def _room(self) -> int:
        """Of each queue."""
        return max(1, self._held_max // max(1, len({part.queue for part in self._shares})))

    def stopped(self, *, running: Collection[Part], patient: bool) -> tuple[list[Part], list[Part]]:
        """Partitions to pause and to resume; `running` are those that are not paused. `patient`: not for want of room.

        Resuming waits until half is free: pausing throws away what the client has fetched ahead.
        """
        room = self._room
        held = {queue: self.holds(queue) for queue in {part.queue for part in self._shares}}
        pause = [
            part
            for part, share in self._shares.items()
            if part in running and (share.offsets.full or (held[part.queue] >= room and not patient))
        ]
        resume = [
            part
            for part, share in self._shares.items()
            if part not in running and held[part.queue] <= room // 2 and not share.offsets.full
        ]
        return pause, resume
