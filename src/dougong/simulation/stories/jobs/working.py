"""The jobs of the story: all do the same, under different rules; and what is seen of those that run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from dougong.jobs import AnyJob, Backoff, Job, Worker, current_job, needs
from dougong.simulation.node import Process
from dougong.store import Store, Tx

if TYPE_CHECKING:
    from dougong.simulation.stories.jobs import Tale

__all__ = ["JOBS", "RETRIES", "Bench", "Run"]

RETRIES = 3
TIMEOUT_S = 1.0
"""What is slowest fails by it four times before it is dead: nobody is done before that."""
_BACKOFF = Backoff(first_s=0.02, factor=6.0, max_s=1.0, jitter=0.9)
KINDS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "urgent": {"priority": 0},
    "ordered": {"order": "mark"},
    "sole": {"unique": ("mark",)},
    "rated": {"rate": 4.0},
    "other": {"queue": "other"},
    "fired": {"queue": "other", "priority": 7},
    "newer": {},
}


class Run(msgspec.Struct, frozen=True):
    """An attempt that runs just now."""

    process: Process
    term: int
    id: int
    kind: str
    mark: str


class Bench:
    """Where the jobs of one worker run."""

    def __init__(self, tale: Tale, process: Process, store: Store) -> None:
        self._tale = tale
        self._process = process
        self._store = store
        self.worker: Worker | None = None

    async def work(self, label: str, millis: int, fails: int, mark: str) -> str:
        """An attempt: waits, has its effect, waits again; and fails, before or after, as it was told."""
        tale, run = self._tale, current_job()
        kind = run.claimed.job
        assert self.worker is not None, "set before it runs"
        me = Run(self._process, self.worker.term, run.id, kind, mark)
        tale.running.append(me)
        tale.ran.add((run.id, run.attempt))
        try:
            self._look(me)
            await asyncio.sleep(millis / 2000)
            if run.attempt <= fails and millis % 2:
                raise RuntimeError("before its effect")

            async def effect(tx: Tx) -> None:
                if await run.first(tx):
                    await tx.execute("INSERT INTO story_effects (job_id, label) VALUES (?, ?)", (run.id, label))

            await self._store.write(effect)
            run.progress(1, 2)
            await asyncio.sleep(millis / 2000)
            if run.attempt <= fails:
                raise RuntimeError("after its effect")
            return label
        finally:
            tale.running.remove(me)

    def _look(self, me: Run) -> None:
        """Is another at it, who may; and is it this one's turn?"""
        tale = self._tale
        alike = [run for run in tale.running if run is not me and run.process.alive and _collide(run, me)]
        if not (alike or me.kind == "ordered") or not tale.valid(me.term):
            return
        for other in alike:
            if not tale.valid(other.term):
                continue
            if other.id == me.id:
                tale.say(f"job {me.id} runs under the terms {other.term} and {me.term} at once")
            else:
                tale.say(f"jobs {other.id} and {me.id} of the mark {me.mark} run at once")
        if me.kind == "ordered":
            before = tale.database.rows(
                "SELECT j.id FROM dougong_job_extras e JOIN dougong_job_extras o ON o.line = e.line AND o.seq < e.seq "
                "JOIN dougong_jobs j ON j.id = o.id WHERE e.id = ? AND j.state IN (1, 2, 3)",
                (me.id,),
            )
            tale.say(*(f"job {me.id} runs before job {id_!s}, which is before it in its order" for (id_,) in before))


def _collide(one: Run, other: Run) -> bool:
    """Whether these two may not run at once."""
    return one.id == other.id or (one.kind == other.kind == "ordered" and one.mark == other.mark)


async def _work(label: str = "", millis: int = 40, fails: int = 0, mark: str = "", bench: Bench = needs(Bench)) -> str:
    return await bench.work(label, millis, fails, mark)


JOBS: Mapping[str, AnyJob] = {
    kind: Job(_work, name=kind, retries=RETRIES, backoff=_BACKOFF, timeout_s=TIMEOUT_S, **options)
    for kind, options in KINDS.items()
}
"""Declared once: reading signatures for every worker of every world took longer than what they did."""
