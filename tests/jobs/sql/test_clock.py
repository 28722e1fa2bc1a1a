"""The clock that the books are kept by is moved back: nobody waits for it to come there again."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.jobs.queues import TTL_S, SqlEngine, attach, ends, ids, new, sql_engine, take

from dougong.errors import Conflict
from dougong.jobs import State

HOUR_S = 3600


@pytest.fixture
async def on(tmp_path: Path) -> AsyncIterator[SqlEngine]:
    async with sql_engine("sqlite", tmp_path) as engine:
        yield engine


def go_back(on: SqlEngine, seconds: float = HOUR_S) -> None:
    on.clock.set_now_us(on.clock.now_us() - round(seconds * 1e6))


async def test_jobs_of_who_died_before_it_come_back_now_and_not_an_hour_later(on: SqlEngine) -> None:
    await on.queue.put([new()])
    term = await attach(on.queue)
    (claimed,) = await take(on.queue, term)
    go_back(on, TTL_S)  # by less than two terms: a living worker keeps what it has
    assert await on.queue.reap() == 0
    assert await on.queue.renew(term, TTL_S)
    go_back(on)
    assert await on.queue.reap() == 1
    with pytest.raises(Conflict, match="term_over"):
        await on.queue.turn(term, ends([claimed]), [])
    assert [one.attempt for one in await take(on.queue, await attach(on.queue))] == [2]


@pytest.mark.parametrize("closed", [True, False])
async def test_a_term_that_was_over_stays_so(closed: bool, on: SqlEngine) -> None:
    """Who slept meanwhile would take jobs in the name of a term that nobody looks after any more."""
    (id_,) = ids(await on.queue.put([new()]))
    term = await attach(on.queue)
    on.pass_s(TTL_S)
    await on.queue.reap()
    go_back(on)
    if not closed:  # ablation: only the time says whether it is over
        until_us = on.clock.now_us() + round(TTL_S * 1e6)
        sql = "UPDATE dougong_job_workers SET closed = 0, until_us = ?"
        await on.store.write(lambda tx: tx.execute(sql, (until_us,)))
    assert await on.queue.renew(term, TTL_S) is not closed
    with pytest.raises(Conflict, match="term_over") if closed else contextlib.nullcontext():
        await take(on.queue, term)
    (stored,) = await on.queue.find([id_])
    assert stored is not None
    assert stored.state is (State.WAITING if closed else State.RUNNING)


async def test_a_rate_holds_nothing_back_for_longer_than_it_says(on: SqlEngine) -> None:
    await on.queue.put([new("slow", rate=2.0)] * 3)
    term = await attach(on.queue, ttl_s=2 * HOUR_S)
    assert len(await take(on.queue, term)) == 1
    go_back(on)
    assert len(await take(on.queue, term)) == 1
    assert await take(on.queue, term) == []
    on.pass_s(0.5)
    assert len(await take(on.queue, term)) == 1
