"""What holds the books right, and what happens without it; what is fast, and stays so."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from tests.jobs.queues import KEEP_S, STALLS_MAX, TTL_S, SqlEngine, attach, ends, ids, new, sql_engine, take

from dougong.clock import ManualClock
from dougong.errors import Conflict
from dougong.jobs import Enqueued, Filter, Outcome, SqlQueue, SqlQueueSettings, State, Want
from dougong.jobs.database_time import DatabaseTime
from dougong.jobs.sql import ending, meters, putting, queue, reading, reaping, taking
from dougong.jobs.sql.step import Step
from dougong.store import Store, open_store


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqlEngine]:
    async with sql_engine("sqlite", tmp_path) as engine:
        yield engine


@pytest.fixture
async def on(dialect: str, tmp_path: Path) -> AsyncIterator[SqlEngine]:
    async with sql_engine(dialect, tmp_path) as engine:
        yield engine


# Ablations


@pytest.mark.parametrize("fenced", [True, False])
async def test_the_fence_keeps_a_silent_worker_from_overwriting(
    fenced: bool, sqlite: SqlEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_check(self: SqlQueue, step: Step, term: int) -> None:
        pass

    if not fenced:
        monkeypatch.setattr(SqlQueue, "_check_term", no_check)
        monkeypatch.setattr(ending, "_HELD", ending._HELD.replace("j.term = ?", "? > 0"))
    (id_,) = ids(await sqlite.queue.put([new()]))
    silent = await attach(sqlite.queue)
    old = await take(sqlite.queue, silent)
    sqlite.pass_s(TTL_S)
    await sqlite.queue.reap()
    fresh = await attach(sqlite.queue)
    await sqlite.queue.turn(fresh, ends(await take(sqlite.queue, fresh), result=b'"fresh"'), [])
    if not fenced:  # the attempt would tell, too
        old = [msgspec.structs.replace(claimed, attempt=claimed.attempt + 1) for claimed in old]
    with pytest.raises(Conflict, match="term_over") if fenced else contextlib.nullcontext():
        await sqlite.queue.turn(silent, ends(old, result=b'"silent"'), [])
    (stored,) = await sqlite.queue.find([id_])
    assert stored is not None
    assert stored.result == (b'"fresh"' if fenced else b'"silent"')


async def test_a_term_that_was_reaped_stays_over_when_the_clock_goes_back(sqlite: SqlEngine) -> None:
    """Nobody would take back what it claims: it is closed."""
    await sqlite.queue.put([new()])
    term = await attach(sqlite.queue)
    await take(sqlite.queue, term)
    sqlite.pass_s(TTL_S)
    assert await sqlite.queue.reap() == 1
    sqlite.clock.set_now_us(sqlite.now_us() - round(TTL_S * 1e6))
    assert not await sqlite.queue.renew(term, TTL_S)
    with pytest.raises(Conflict, match="term_over"):
        await take(sqlite.queue, term)


async def test_a_term_that_is_renewed_while_it_is_reaped_keeps_its_jobs(sqlite: SqlEngine) -> None:
    """The clock went back between the look at terms and the taking back."""
    await sqlite.queue.put([new()])
    term = await attach(sqlite.queue)
    await take(sqlite.queue, term)
    reaper = sqlite.queue._reaper

    async def too_early(step: Step) -> list[tuple[int, str]]:
        return [(term, "w")]

    reaper._terms_over = too_early  # type: ignore[method-assign]
    assert await reaper.reap() == 0
    assert [claimed.attempt for claimed in await sqlite.queue.held(term)] == [1]


async def test_an_end_that_is_said_again_does_not_spend_the_next_attempt(sqlite: SqlEngine) -> None:
    """A turn wrote a retry that was due at once, took the job again, and its answer was lost."""
    await sqlite.queue.put([new()])
    term = await attach(sqlite.queue)
    first = await take(sqlite.queue, term)
    retry = ends(first, Outcome.RETRY)
    (again,) = (await sqlite.queue.turn(term, retry, [Want("default", 1)])).claimed
    assert again.attempt == 2
    turn = await sqlite.queue.turn(term, [*retry, *ends([again])], [])
    assert turn.lost == []  # the second attempt's end counts
    (stored,) = await sqlite.queue.find([again.id])
    assert stored is not None
    assert (stored.state, stored.attempts) == (State.DONE, 2)


@pytest.mark.parametrize("fenced", [True, False])
async def test_the_end_of_a_job_that_stands_alone_is_fenced_as_well(
    fenced: bool, on: SqlEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fenced:
        monkeypatch.setattr(ending, "_HELD_ATTEMPTS", ending._HELD_ATTEMPTS.replace("term = ?", "? > 0"))
    (id_, own) = ids(await on.queue.put([new(), new()]))
    holder, other = await attach(on.queue), await attach(on.queue)
    (held,) = await take(on.queue, holder, 1)
    (mine,) = await take(on.queue, other, 1)
    assert held.alone
    assert (held.id, mine.id) == (id_, own)
    turn = await on.queue.turn(other, ends([held, mine, mine]), [])
    stored, done = await on.queue.find([id_, own])
    assert stored is not None
    assert done is not None
    assert (list(turn.lost), stored.state) == (([id_], State.RUNNING) if fenced else ([], State.DONE))
    assert done.state is State.DONE


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("mark", ["key", "unique"])
async def test_marks_keep_a_job_from_being_there_twice(
    mark: str, marked: bool, sqlite: SqlEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not marked:
        monkeypatch.setattr(putting, "_marks", lambda job: (None, None))
    for _ in range(2):
        await sqlite.queue.put([new(key="m") if mark == "key" else new(unique="m")])
    assert len(await sqlite.queue.page(Filter())) == (1 if marked else 2)


@pytest.mark.parametrize("served", [True, False])
@pytest.mark.parametrize("dialect", ["mysql", "postgresql"], indirect=True)
async def test_the_servers_clock_keeps_workers_from_disagreeing(served: bool, fresh_url: Callable[[], str]) -> None:
    """A process whose clock is an hour ahead takes nobody's jobs. Ablation: by its own clock it does."""
    url = fresh_url()
    here, there = await open_store(url), await open_store(url)
    now = ManualClock()
    ahead = ManualClock(now_us=now.now_us() + 3600_000_000)
    queues = [SqlQueue(here, now), SqlQueue(there, ahead)]
    try:
        for one, clock in zip(queues, (now, ahead), strict=True):
            if not served:
                one._time = DatabaseTime("by hand", clock)
            await one.start()
        await queues[0].put([new()])
        term = await attach(queues[0], ttl_s=600)
        claimed = await take(queues[0], term)
        assert len(claimed) == 1
        assert await queues[1].reap() == (0 if served else 1)
    finally:
        for store in (here, there):
            await store.close()


# Speed that does not depend on how much there is


async def plan(store: Store, sql: str, values: tuple[int | str, ...]) -> str:
    """How the engine means to run a query, as text."""
    if store.dialect == "sqlite":
        return "; ".join(str(row[3]) for row in await store.fetch_all(f"EXPLAIN QUERY PLAN {sql}", values))
    rows = await store.fetch_all(f"EXPLAIN {sql}", values)
    return "; ".join(" ".join(map(str, row)) for row in rows)


async def test_what_waits_is_found_by_an_index_without_sorting(on: SqlEngine) -> None:
    now_us = on.now_us()
    await on.queue.put([new()] * 2000 + [new(due_us=now_us + 10**9)] * 500 + [new(rate=1.0)] * 10)
    term = await attach(on.queue)
    await on.queue.turn(term, ends(await take(on.queue, term, 1000)), [Want("default", 100)])
    for sql, values, index in (
        (taking.take_sql(on.store.dialect), ("default", 100), "dougong_jobs_place"),
        (taking.STANDS, ("default/greet",), "dougong_jobs_place"),
        (taking.due_sql(on.store.dialect), (now_us, 100), "dougong_jobs_delayed"),
        (taking.NEXT_DUE, (), "dougong_jobs_delayed"),
        (reading.HEAD, ("default",), "dougong_jobs_place"),
        (ending.HOLD, (term, 10), "dougong_jobs_term"),
    ):
        text = await plan(on.store, sql, values)
        # MariaDB answers a lone min() from the index when it makes the plan, and then has no more to say.
        assert index in text or "optimized away" in text, (sql, text)
        for sign in ("SCAN j", "TEMP B-TREE", "filesort", "Sort", "Seq Scan on dougong_jobs"):
            assert sign not in text, (sql, text)
    for which, few, index in (
        (Filter(key="k"), ("k", 1 << 62, 50), "dougong_job_extras_key"),
        (Filter(state=State.DEAD), (1 << 62, 50), "dougong_jobs_dead"),
    ):
        assert index in await plan(on.store, page_sql(on, which), few)


def page_sql(on: SqlEngine, which: Filter) -> str:
    return reading.PAGE.format(conditions=on.queue._reading._conditions(which)[0])


# Windows


async def test_work_is_done_in_bounded_portions(sqlite: SqlEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "RETURNED_AT_ONCE", 3)
    monkeypatch.setattr(reaping, "HELD_AT_ONCE", 3)
    monkeypatch.setattr(reaping, "WINDOW_ROWS", 3)
    monkeypatch.setattr(reaping, "WINDOWS_AT_ONCE", 2)
    monkeypatch.setattr(taking, "MOVED_MAX", 3)
    monkeypatch.setattr(reading, "ROWS_AT_ONCE", 3)
    due_us = sqlite.now_us() + 1_000_000
    jobs = ids(await sqlite.queue.put([new(due_us=due_us)] * 10))
    sqlite.pass_s(1)
    term = await attach(sqlite.queue)
    turns = [await sqlite.queue.turn(term, [], [Want("default", 100)]) for _ in range(4)]
    assert [len(turn.claimed) for turn in turns] == [3, 3, 3, 1]
    assert [turn.next_due_us for turn in turns] == [due_us, due_us, due_us, None], "there are more: come again at once"
    await sqlite.queue.cancel(jobs[-1:])
    await sqlite.queue.detach(term)
    (counts,) = await sqlite.queue.counts()
    assert (counts.waiting, counts.running, counts.cancelled) == (9, 0, 1)
    for _ in range(STALLS_MAX):
        term = await attach(sqlite.queue)
        assert len(await take(sqlite.queue, term)) == 9
        sqlite.pass_s(TTL_S)
        await sqlite.queue.reap()
    assert [stored.id for stored in await sqlite.queue.page(Filter(), limit=7)] == jobs[:-8:-1]
    await sqlite.queue.replay(jobs[:8])
    term = await attach(sqlite.queue)
    await sqlite.queue.turn(term, ends(await take(sqlite.queue, term)), [])
    sqlite.pass_s(KEEP_S + TTL_S)
    for _ in range(3):
        await sqlite.queue.reap()
    assert [stored.id for stored in await sqlite.queue.page(Filter())] == [jobs[8]], "dead ones stay"
    assert await sqlite.store.fetch_all("SELECT name FROM dougong_job_workers") == []


async def test_a_key_that_led_to_one_that_is_unique_leads_there_ever_after(sqlite: SqlEngine) -> None:
    (there,) = await sqlite.queue.put([new(unique="u")])
    again = new(unique="u", key="k")
    assert await sqlite.queue.put([again, again]) == [Enqueued(there.id, False)] * 2
    term = await attach(sqlite.queue)
    await sqlite.queue.turn(term, ends(await take(sqlite.queue, term)), [])
    assert await sqlite.queue.put([again]) == [Enqueued(there.id, False)]
    await sqlite.queue.forget([there.id])
    (anew,) = await sqlite.queue.put([again])
    assert anew.new


async def test_what_happens_is_counted(sqlite: SqlEngine) -> None:
    def counted() -> list[float]:
        return [
            meters.put.value("counted"),
            meters.claimed.value("counted"),
            meters.ended.value("counted", "done"),
            meters.ended.value("counted", "retry"),
            meters.lost.value(),
            meters.reaped.value("back"),
            meters.head_age_s.value("counted"),
        ]

    before = counted()
    await sqlite.queue.put([new(queue="counted", key="k"), new(queue="counted", key="k"), new(queue="counted")])
    sqlite.pass_s(2)
    term = await attach(sqlite.queue)
    first, second = await take(sqlite.queue, term, of="counted")
    await sqlite.queue.turn(term, ends([first]) + ends([second], Outcome.RETRY), [])
    await sqlite.queue.turn(term, ends([first]), [])
    (again,) = await take(sqlite.queue, term, of="counted")
    sqlite.pass_s(TTL_S)
    await sqlite.queue.reap()
    assert again.id == second.id
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [2, 3, 1, 1, 1, 1, 0]


async def test_settings_that_cannot_be_are_refused() -> None:
    from dougong.errors import Invalid

    with pytest.raises(Invalid, match="stalls_max"):
        SqlQueueSettings(stalls_max=0)
