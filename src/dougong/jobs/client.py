"""`Jobs`: how a program enqueues, asks, and decides about jobs.

The queue below knows states and terms; this knows what people mean: in five minutes, one after the other, all of these
and then that one, all that failed since noon.
"""

from __future__ import annotations

import asyncio
import difflib
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence

import msgspec

from dougong.clock import Clock, SystemClock
from dougong.errors import Conflict, DeadlineExceeded, Invalid, NotFound
from dougong.jobs._protocol import (
    PRIORITY_MAX,
    Enqueued,
    Filter,
    NewJob,
    Queue,
    QueueCounts,
    QueueSettings,
    State,
    Stored,
)
from dougong.jobs.declare import Job
from dougong.store import Tx

__all__ = ["ENDED", "Group", "Jobs", "near"]

ENDED = frozenset({State.DONE, State.DEAD, State.CANCELLED})
"""States that a job leaves only when somebody replays it."""

CONCURRENCY_MAX = 10_000
SHARDS_MAX = 10_000
PAGE_MAX = 1000
AT_ONCE_MAX = 10_000
"""Jobs that one call by filter changes."""
_LOOK_FIRST_S = 0.02
_LOOK_LAST_S = 0.5


class Group(msgspec.Struct, frozen=True):
    """Jobs that were enqueued with something to come once all of them are done."""

    id: int
    jobs: list[Enqueued]


class Jobs:
    """The jobs of one queue engine, for who enqueues and for who operates.

    `jobs` are those known here; only enqueueing by name needs them. `delay_s` counts on `clock`: where the engine goes
    by a server's clock, the two should agree to what matters to the caller.
    """

    def __init__(self, queue: Queue, jobs: Iterable[Job[..., object]] = (), *, clock: Clock | None = None) -> None:
        self.queue = queue
        self._jobs = {job.name: job for job in jobs}
        self._clock = clock if clock is not None else SystemClock()

    # enqueue

    async def enqueue(
        self,
        call: NewJob,
        *,
        tx: Tx | None = None,
        delay_s: float | None = None,
        at_us: int | None = None,
        key: str | None = None,
        priority: int | None = None,
        queue: str | None = None,
    ) -> Enqueued:
        """Enqueue `job.call(...)`; on the disk when this returns, or with `tx` once that commits.

        - `tx`: the caller's transaction on the database of the queue: the job exists if, and only if, it commits.
        - `delay_s`, `at_us`: not before then; one of them.
        - `key`: repeats with the same job and key find the first (`Enqueued.new` is False).

        Raises `Invalid` for what no worker could take, `Unavailable` when it was not written.
        """
        (enqueued,) = await self.queue.put([self._laid_out(call, delay_s, at_us, key, priority, queue)], tx)
        return enqueued

    async def enqueue_many(self, calls: Sequence[NewJob], *, tx: Tx | None = None) -> list[Enqueued]:
        """All or nothing, in one transaction; in their order."""
        return await self.queue.put(calls, tx) if calls else []

    async def enqueue_named(
        self,
        name: str,
        arguments: bytes,
        *,
        tx: Tx | None = None,
        delay_s: float | None = None,
        at_us: int | None = None,
        key: str | None = None,
        priority: int | None = None,
        queue: str | None = None,
    ) -> Enqueued:
        """Enqueue by name, with arguments that are JSON: what came in over HTTP. Raises `NotFound` (`unknown_job`)."""
        call = self.job(name).call_with(arguments)
        return await self.enqueue(call, tx=tx, delay_s=delay_s, at_us=at_us, key=key, priority=priority, queue=queue)

    async def chain(self, *calls: NewJob, tx: Tx | None = None) -> Enqueued:
        """One after the other, each when the one before is done; what came of the first. It ends with one that dies."""
        if not calls:
            raise Invalid("a chain of no jobs", code="empty_chain")
        first, *rest = calls
        (enqueued,) = await self.queue.put([msgspec.structs.replace(first, then=(*first.then, *rest))], tx)
        return enqueued

    async def group(self, calls: Sequence[NewJob], *, then: NewJob, tx: Tx | None = None) -> Group:
        """All at once, and `then` when the last of them is done."""
        if not calls:
            raise Invalid("a group of no jobs: what comes after it would never come", code="empty_group")
        return Group(*await self.queue.put_group(calls, then, tx))

    async def broadcast(self, call: NewJob, total: int, *, tx: Tx | None = None) -> list[Enqueued]:
        """The same call `total` times, each with its own index, which it finds in `current_job()`."""
        return await self.queue.put(sharded(call, total), tx)

    async def wait(self, id: int, timeout_s: float) -> Stored:  # noqa: A002 (what it is called everywhere)
        """The job, once it is done, dead or cancelled. Raises `DeadlineExceeded` (`job_unfinished`), `NotFound`."""
        pause_s = _LOOK_FIRST_S
        try:
            async with asyncio.timeout(timeout_s):
                while (found := await self.show(id)).state not in ENDED:
                    # Apart, since those who began together would look together.
                    await asyncio.sleep(pause_s * (1 - random.random() / 4))
                    pause_s = min(pause_s * 1.5, _LOOK_LAST_S)
        except TimeoutError:
            raise DeadlineExceeded(f"job {id} did not end within {timeout_s:g} s", code="job_unfinished") from None
        return found

    # look

    @property
    def declared(self) -> Sequence[Job[..., object]]:
        """The jobs known here."""
        return tuple(self._jobs.values())

    def job(self, name: str) -> Job[..., object]:
        """A declared one. Raises `NotFound` (`unknown_job`) with the nearest names."""
        found = self._jobs.get(name)
        if found is None:
            raise NotFound(f"there is no job {name!r}: {near(name, self._jobs)}", code="unknown_job", field="job")
        return found

    async def show(self, id: int) -> Stored:  # noqa: A002
        """Raises `NotFound` (`unknown_job_id`); finished ones are forgotten after a while."""
        (found,) = await self.queue.find([id])
        if found is None:
            raise NotFound(f"there is no job with the id {id}, or no more", code="unknown_job_id", field="id")
        return found

    async def ls(self, which: Filter = Filter(), *, after: int | None = None, limit: int = 50) -> list[Stored]:  # noqa: B008 (frozen)
        """Newest first; `after` is the last id of the page before."""
        if not 1 <= limit <= PAGE_MAX:
            raise Invalid(f"limit must be 1 to {PAGE_MAX:,}, not {limit}", code="bad_limit", field="limit")
        return await self.queue.page(which, after=after, limit=limit)

    async def dead(self, which: Filter = Filter(), *, after: int | None = None, limit: int = 50) -> list[Stored]:  # noqa: B008
        """Those that failed for good, with what they failed of."""
        return await self.ls(msgspec.structs.replace(which, state=State.DEAD), after=after, limit=limit)

    async def counts(self) -> list[QueueCounts]:
        """How many are where, by queue."""
        return await self.queue.counts()

    async def settings(self) -> dict[str, QueueSettings]:
        """What was set for queues while they run."""
        return dict(await self.queue.settings())

    # decide

    async def cancel(self, *ids: int, tx: Tx | None = None) -> set[int]:
        """Waiting ones never run, running ones are asked to end; the ids that were unfinished."""
        return await self.queue.cancel(ids, tx) if ids else set()

    async def retry(self, *ids: int) -> set[int]:
        """Dead and cancelled ones run again, with all their attempts; the ids that were such."""
        return await self.queue.replay(ids) if ids else set()

    async def forget(self, *ids: int) -> set[int]:
        """Finished ones are deleted, dead ones too; the ids that were such."""
        return await self.queue.forget(ids) if ids else set()

    async def cancel_all(self, which: Filter) -> set[int]:
        """Those of a filter, 10,000 at most: call again until none is left."""
        return await self._each(which, (State.WAITING, State.BLOCKED, State.RUNNING), self.queue.cancel)

    async def retry_all(self, which: Filter) -> set[int]:
        """Dead ones of a filter, 10,000 at most; cancelled ones when it says so."""
        return await self._each(which, (State.DEAD,), self.queue.replay, also=(State.CANCELLED,))

    async def pause(self, queue: str) -> None:
        """Nothing more of it is taken; what runs ends as it would."""
        await self._configure(queue, paused=True)

    async def resume(self, queue: str) -> None:
        """It is taken again."""
        await self._configure(queue, paused=False)

    async def resize(self, queue: str, concurrency: int | None) -> None:
        """Each worker process runs so many of it at once, within a second; None is what it was configured with."""
        if concurrency is not None and not 1 <= concurrency <= CONCURRENCY_MAX:
            raise Invalid(
                f"concurrency must be 1 to {CONCURRENCY_MAX:,}, not {concurrency}; to stop a queue, pause it",
                code="bad_concurrency",
                field="concurrency",
            )
        await self._configure(queue, concurrency=concurrency)

    async def _configure(self, queue: str, **changes: int | bool | None) -> None:
        known = {count.queue for count in await self.queue.counts()} | {job.queue for job in self._jobs.values()}
        if queue not in known:  # a queue that is misspelt would be set in vain, and silently
            raise NotFound(f"there is no queue {queue!r}: {near(queue, known)}", code="unknown_queue", field="queue")
        before = (await self.queue.settings()).get(queue, QueueSettings())
        await self.queue.configure(queue, msgspec.structs.replace(before, **changes))

    async def _each(
        self,
        which: Filter,
        states: Sequence[State],
        change: Callable[[Sequence[int]], Awaitable[set[int]]],
        also: Sequence[State] = (),
    ) -> set[int]:
        if which.state is not None and which.state not in (*states, *also):
            possible = ", ".join((*states, *also))
            raise Conflict(f"jobs that are {which.state} cannot be changed so; those that are {possible} can")
        changed: set[int] = set()
        for state in [which.state] if which.state is not None else states:
            after: int | None = None
            while len(changed) < AT_ONCE_MAX:
                page = await self.ls(msgspec.structs.replace(which, state=state), after=after, limit=PAGE_MAX)
                if not page:
                    break
                after = page[-1].id
                changed |= await change([job.id for job in page[: AT_ONCE_MAX - len(changed)]])
        return changed

    def _laid_out(
        self,
        call: NewJob,
        delay_s: float | None,
        at_us: int | None,
        key: str | None,
        priority: int | None,
        queue: str | None,
    ) -> NewJob:
        """The call with what was said about it."""
        if delay_s is not None and at_us is not None:
            raise Invalid("give delay_s or at_us, not both", code="two_times", field="delay_s")
        if delay_s is not None:
            if not 0 <= delay_s < 1e9:
                raise Invalid(f"delay_s must be 0 or more, not {delay_s}", code="bad_delay", field="delay_s")
            at_us = self._clock.now_us() + round(delay_s * 1e6)
        if priority is not None and not 0 <= priority <= PRIORITY_MAX:
            raise Invalid(
                f"priority must be 0 (first) to {PRIORITY_MAX} (last), not {priority}",
                code="bad_priority",
                field="priority",
            )
        said = {"due_us": at_us, "key": key, "priority": priority, "queue": queue}
        changes = {name: value for name, value in said.items() if value is not None}
        return msgspec.structs.replace(call, **changes) if changes else call


def sharded(call: NewJob, total: int) -> list[NewJob]:
    """`total` shards of one call; what makes it one (key, uniqueness) makes each shard one."""
    if not 1 <= total <= SHARDS_MAX:
        raise Invalid(f"a broadcast has 1 to {SHARDS_MAX:,} shards, not {total}", code="bad_total", field="total")

    def of(index: int, mark: str | None) -> str | None:
        return None if mark is None else f"{mark}#{index}"

    return [
        msgspec.structs.replace(call, index=i, total=total, key=of(i, call.key), unique=of(i, call.unique))
        for i in range(total)
    ]


def near(word: str, known: Iterable[str]) -> str:
    """What `word` may have meant, as the end of an error."""
    names = sorted(set(known))
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.5) or [n for n in names if word.lower() in n.lower()]
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there are {', '.join(names[:20])}" if names else "there is none"
