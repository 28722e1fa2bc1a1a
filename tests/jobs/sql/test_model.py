"""Whatever happens in whatever order: the books are right, and nothing is stuck."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest
from tests.jobs.queues import STALLS_MAX, TTL_S, SqlEngine, attach, ids, new, sql_engine

from dougong.errors import Conflict
from dougong.jobs import Claimed, Ended, NewJob, Outcome, State, Want
from dougong.jobs.sql.step import BLOCKED, DELAYED

STEPS = 250
QUEUES = ("one", "two")


class Walk:
    """Some workers and some callers do anything, by a seed."""

    def __init__(self, engine: SqlEngine, seed: int) -> None:
        self.engine = engine
        self.queue = engine.queue
        self.random = random.Random(seed)
        self.terms: dict[int, dict[int, Claimed]] = {}
        self.put: set[int] = set()
        self.done: set[int] = set()

    def job(self) -> NewJob:
        draw = self.random
        job = new(
            draw.choice("abc"),
            queue=draw.choice(QUEUES),
            priority=draw.randrange(10),
            due_us=draw.choice([None, None, self.engine.now_us() + draw.randrange(20_000_000)]),
            key=draw.choice([None, None, None, str(draw.randrange(50))]),
            unique=draw.choice([None, None, None, str(draw.randrange(5))]),
            order=draw.choice([None, None, None, str(draw.randrange(3))]),
            rate=draw.choice([None, None, None, None, 20.0]),
        )
        if draw.random() < 0.1:
            job = msgspec.structs.replace(job, then=(self.job_alone(), self.job_alone()))
        return job

    def job_alone(self) -> NewJob:
        return new("next", queue=self.random.choice(QUEUES), key=self.random.choice([None, "shared"]))

    async def put_some(self) -> None:
        self.put |= set(ids(await self.queue.put([self.job() for _ in range(self.random.randrange(1, 8))])))

    async def put_group(self) -> None:
        try:
            group, members = await self.queue.put_group([self.job() for _ in range(3)], self.job())
        except Conflict as conflict:
            self.only(conflict, "in_another_group", "no_such_group")
        else:
            self.put |= {group, *ids(members)}

    async def attach(self) -> None:
        if len(self.terms) < 4:
            self.terms[await attach(self.queue)] = {}

    async def turn(self) -> None:
        if not self.terms:
            return
        term = self.random.choice(list(self.terms))
        held = self.terms[term]
        ending = self.random.sample(sorted(held), self.random.randrange(len(held) + 1))
        ended = [self.end(held[id_]) for id_ in ending]
        try:
            turn = await self.queue.turn(term, ended, [Want(queue, self.random.randrange(6)) for queue in QUEUES])
        except Conflict as over:
            self.only(over, "term_over")
            del self.terms[term]
            return
        assert list(turn.lost) == []
        assert {claimed.id for claimed in turn.claimed}.isdisjoint(self.done), "what is done never comes again"
        self.done |= {end.claimed.id for end in ended if end.outcome is Outcome.DONE}
        for id_ in ending:
            del held[id_]
        for claimed in turn.claimed:
            assert all(claimed.id not in other for other in self.terms.values()), "held by two"
            held[claimed.id] = claimed

    def end(self, claimed: Claimed) -> Ended:
        outcome = self.random.choice([Outcome.DONE] * 5 + list(Outcome))
        due_us = self.engine.now_us() + self.random.randrange(5_000_000) if outcome is Outcome.RETRY else None
        return Ended(claimed=claimed, outcome=outcome, due_us=due_us, result=self.random.choice([None, b"1"]))

    async def detach(self) -> None:
        if self.terms:
            term = self.random.choice(list(self.terms))
            del self.terms[term]
            await self.queue.detach(term)

    async def fall_silent(self) -> None:
        """All terms but those renewed are over, and reaped."""
        self.engine.pass_s(TTL_S / 2)
        for term in list(self.terms):
            if self.random.random() < 0.7:
                await self.queue.renew(term, TTL_S)
        self.engine.pass_s(TTL_S / 2)
        for term in list(self.terms):
            if not await self.queue.renew(term, TTL_S):
                del self.terms[term]
        await self.queue.reap()

    async def cancel(self) -> None:
        await self.queue.cancel(self.some())

    async def replay(self) -> None:
        self.done -= await self.queue.replay(self.some())

    async def forget(self) -> None:
        self.put -= await self.queue.forget(self.some()[:1])

    def only(self, conflict: Conflict, *codes: str) -> None:
        assert conflict.code in codes

    def some(self) -> list[int]:
        return self.random.sample(sorted(self.put), min(len(self.put), 3))

    async def step(self) -> None:
        await self.random.choice(
            [self.put_some] * 3
            + [self.turn] * 8
            + [self.put_group, self.attach, self.attach, self.detach, self.fall_silent]
            + [self.cancel, self.replay, self.forget]
        )()
        self.engine.pass_s(self.random.random() * 0.3)

    async def drain(self) -> None:
        """Everybody works well until nothing is left to do."""
        for term in list(self.terms):
            await self.queue.detach(term)
        self.terms = {}
        for _ in range(400):
            self.engine.pass_s(1)
            term = await attach(self.queue)
            while True:
                turn = await self.queue.turn(term, [], [Want(queue, 100) for queue in QUEUES])
                if not turn.claimed:
                    break
                await self.queue.turn(term, [Ended(claimed=c, outcome=Outcome.DONE) for c in turn.claimed], [])
            if not any(counts.waiting for counts in await self.queue.counts()):
                return
        raise AssertionError("some never came")


async def check(engine: SqlEngine) -> None:
    """What is true between any two transactions."""
    fetch = engine.store.fetch_all
    counted: dict[tuple[object, object], object] = {
        (queue, state): count
        for queue, state, count in await fetch(
            f"SELECT queue, CASE WHEN state = 1 AND delayed_us IS NOT NULL THEN {DELAYED} ELSE state END AS place, "
            "count(*) FROM dougong_jobs GROUP BY 1, 2"
        )
    }
    for queue, *numbers in await fetch(
        "SELECT queue, delayed_jobs, waiting, blocked, running, done, dead, cancelled FROM dougong_job_queues"
    ):
        assert numbers == [counted.get((queue, state), 0) for state in range(7)], queue
    nowhere = await fetch(
        "SELECT id FROM dougong_jobs WHERE (state = 1) <> (place IS NOT NULL OR delayed_us IS NOT NULL) "
        "OR (state = 3) <> (term IS NOT NULL) OR (place IS NOT NULL AND delayed_us IS NOT NULL) "
        "OR (state IN (4, 5, 6)) <> (finished_us IS NOT NULL)"
    )
    assert nowhere == []
    firsts = await fetch(
        "SELECT l.line, j.state FROM dougong_job_lines l JOIN dougong_jobs j ON j.id = l.job_id ORDER BY l.line, l.seq"
    )
    seen: set[object] = set()
    for line, state in firsts:
        assert (state == BLOCKED) == (line in seen), "the first of a line may come, and no other"
        seen.add(line)
    orphans = await fetch(
        "SELECT m.job_id FROM dougong_job_marks m LEFT JOIN dougong_jobs j ON j.id = m.job_id WHERE j.id IS NULL "
        "UNION ALL SELECT e.id FROM dougong_job_extras e LEFT JOIN dougong_jobs j ON j.id = e.id WHERE j.id IS NULL "
        "UNION ALL SELECT c.job_id FROM dougong_job_cancels c LEFT JOIN dougong_jobs j ON j.id = c.job_id "
        "AND j.term = c.term WHERE j.id IS NULL"
    )
    assert orphans == []


@pytest.mark.parametrize("seed", range(4))
async def test_the_books_are_right_whatever_happens(seed: int, tmp_path: Path) -> None:
    async with sql_engine("sqlite", tmp_path, keep_s=1e6) as engine:
        walk = Walk(engine, seed)
        for _ in range(STEPS):
            await walk.step()
            await check(engine)
        await walk.drain()
        await check(engine)
        for stored in await walk.queue.find(sorted(walk.put)):
            assert stored is not None
            assert stored.stalls <= STALLS_MAX
            if stored.id in walk.done:
                assert stored.state is State.DONE
            if stored.state is State.BLOCKED:  # only what waits for a member that is no more
                assert await engine.store.fetch_one("SELECT 1 FROM dougong_job_groups WHERE id = ?", (stored.id,))
