"""What holds on every engine where jobs wait."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.jobs.queues import (
    ENGINES,
    KEEP_S,
    PRIORITIES,
    RETENTION,
    SHARED,
    STALLS_MAX,
    TRANSACTIONS,
    TTL_S,
    Engine,
    attach,
    ends,
    ids,
    needs,
    new,
    take,
)

from dougong.errors import Conflict, Error, Invalid
from dougong.jobs import (
    Claimed,
    Ended,
    Enqueued,
    Filter,
    Outcome,
    Progress,
    Queue,
    QueueCounts,
    QueueSettings,
    State,
    Stored,
    Turn,
    Want,
)
from dougong.store import Tx

PATIENCE_S = 60.0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        needed: frozenset[str] = getattr(metafunc.function, "needs", frozenset())
        able = [name for name, kind in ENGINES.items() if needed <= kind.can]
        # One broker serves them all: it takes a while to start.
        marked = [pytest.param(name, marks=pytest.mark.xdist_group(name) if name == "kafka" else ()) for name in able]
        metafunc.parametrize("engine", marked, indirect=True)


@pytest.fixture
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    async with ENGINES[request.param].make(tmp_path) as made:
        yield made


@pytest.fixture
def queue(engine: Engine) -> Queue:
    return engine.queue


async def write_ends(queue: Queue, term: int, ended: Sequence[Ended]) -> Turn:
    return await queue.turn(term, ended, [])


async def one(queue: Queue, id_: int) -> Stored:
    (stored,) = await queue.find([id_])
    assert stored is not None
    return stored


async def states(queue: Queue, these: Sequence[int]) -> list[State | None]:
    return [stored.state if stored is not None else None for stored in await queue.find(these)]


# A job's way


async def test_a_job_is_put_taken_and_done(engine: Engine, queue: Queue) -> None:
    put_us = engine.now_us()
    (enqueued,) = await queue.put(
        [new(payload=b'{"who":"you"}', trace="00-a-b-01", index=1, total=3, schedule="daily", fire_us=7)]
    )
    assert enqueued.new
    waiting = await one(queue, enqueued.id)
    assert (waiting.state, waiting.attempts, waiting.enqueued_us, waiting.due_us) == (State.WAITING, 0, put_us, put_us)
    engine.pass_s(1)
    term = await attach(queue, "shop/a")
    (claimed,) = await take(queue, term)
    assert claimed == Claimed(
        id=enqueued.id,
        queue="default",
        job="greet",
        payload=b'{"who":"you"}',
        attempt=1,
        enqueued_us=put_us,
        due_us=put_us,
        trace="00-a-b-01",
        index=1,
        total=3,
        schedule="daily",
        fire_us=7,
        alone=claimed.alone,
        place=claimed.place,
    )
    assert (await one(queue, enqueued.id)).state is State.RUNNING
    assert await take(queue, term) == []
    engine.pass_s(1)
    assert (await write_ends(queue, term, ends([claimed], result=b"42"))).lost == []
    done = await one(queue, enqueued.id)
    assert (done.state, done.result, done.worker, done.attempts) == (State.DONE, b"42", "shop/a", 1)
    assert (done.started_us, done.finished_us) == (put_us + 1_000_000, put_us + 2_000_000)
    assert await take(queue, term) == []


async def test_what_is_asked_for_is_found_in_that_order(queue: Queue) -> None:
    first, second = ids(await queue.put([new("a"), new("b")]))
    found = await queue.find([second, 1 << 40, first, second])
    assert [stored.job if stored is not None else None for stored in found] == ["b", None, "a", "b"]


@needs(PRIORITIES)
async def test_the_first_is_taken_by_priority_then_by_time(engine: Engine, queue: Queue) -> None:
    await queue.put([new("late", priority=9), new("normal"), new("normal2")])
    engine.pass_s(1)
    await queue.put([new("normal3"), new("first", priority=0)])
    term = await attach(queue)
    taken = [(await take(queue, term, 1))[0].job for _ in range(5)]
    assert taken == ["first", "normal", "normal2", "normal3", "late"]


async def test_queues_are_apart(queue: Queue) -> None:
    await queue.put([new("a", queue="one"), new("b", queue="two"), new("c", queue="two")])
    term = await attach(queue)
    turn = await queue.turn(term, [], [Want("two", 1), Want("one", 5), Want("none", 5)])
    assert sorted(c.job for c in turn.claimed) in (["a", "b"], ["a", "c"])


async def test_one_that_is_delayed_comes_when_it_is_due(engine: Engine, queue: Queue) -> None:
    now_us = engine.now_us()
    later, past = ids(
        await queue.put([new(due_us=now_us + 5_000_000), new("past", due_us=now_us - 1)]),
    )
    term = await attach(queue)
    turn = await queue.turn(term, [], [Want("default", 9)])
    assert [(c.id, c.due_us) for c in turn.claimed] == [(past, now_us)]
    assert (turn.now_us, turn.next_due_us) == (now_us, now_us + 5_000_000)
    (counts,) = await queue.counts()
    assert (counts.waiting, counts.delayed) == (1, 1)
    engine.pass_s(5)
    turn = await queue.turn(term, [], [Want("default", 9)])
    assert [c.id for c in turn.claimed] == [later]
    assert turn.next_due_us is None


async def test_ten_thousand_at_once_and_not_one_more(queue: Queue) -> None:
    enqueued = await queue.put([new()] * 10_000)
    assert len(set(ids(enqueued))) == 10_000
    with pytest.raises(Invalid, match="10,000 at most"):
        await queue.put([new()] * 10_001)
    term = await attach(queue)
    seen: set[int] = set()
    ended: list[Ended] = []
    while True:
        turn = await queue.turn(term, ended, [Want("default", 4000)])
        seen.update(c.id for c in turn.claimed)
        ended = ends(turn.claimed)
        if not ended:
            break
    assert len(seen) == 10_000
    (counts,) = await queue.counts()
    assert counts == QueueCounts(queue="default", done=10_000)


async def test_all_are_put_or_none(queue: Queue) -> None:
    with pytest.raises(Invalid):
        await queue.put([new(), new(priority=99)])
    assert await queue.page(Filter()) == []
    assert await queue.put([]) == []


# Transactions of the caller


@needs(TRANSACTIONS)
async def test_jobs_put_in_a_transaction_exist_if_it_commits(engine: Engine, queue: Queue) -> None:
    async def undone(tx: Tx) -> None:
        await queue.put([new("undone", key="k", unique="u", order="o", then=(new(),))], tx)
        raise ValueError("changed my mind")

    async def kept(tx: Tx) -> list[Enqueued]:
        assert await queue.cancel([1 << 40], tx) == set()
        put = await queue.put([new("kept", key="k")], tx)
        assert await queue.unfinished(ids(put), tx) == set(ids(put))
        return put

    with pytest.raises(ValueError, match="changed my mind"):
        await engine.store.write(undone)
    assert await queue.page(Filter()) == []
    (enqueued,) = await engine.store.write(kept)
    assert enqueued.new
    assert [stored.job for stored in await queue.page(Filter())] == ["kept"]
    (counts,) = await queue.counts()
    assert counts.waiting == 1


@needs(TRANSACTIONS)
async def test_numbers_do_not_run_out_in_transactions(engine: Engine, queue: Queue) -> None:
    async def unit(tx: Tx) -> list[Enqueued]:
        return await queue.put([new()] * 4000, tx)

    put = [enqueued for _ in range(4) for enqueued in await engine.store.write(unit)]
    assert len(set(ids(put))) == 16_000


# One of a kind


async def test_a_key_leads_to_the_job_that_has_it(queue: Queue) -> None:
    first, again, other = await queue.put([new(key="k"), new(key="k"), new("other", key="k")])
    assert (first.new, again, other.new) == (True, Enqueued(first.id, False), True)
    term = await attach(queue)
    claimed = await take(queue, term)
    assert sorted((c.job, c.key) for c in claimed) == [("greet", "k"), ("other", "k")]
    await write_ends(queue, term, ends(claimed))
    assert await queue.put([new(key="k")]) == [Enqueued(first.id, False)]
    assert await queue.forget([first.id]) == {first.id}
    (anew,) = await queue.put([new(key="k")])
    assert anew.new


async def test_one_that_is_unique_is_there_once_until_it_is_over(queue: Queue) -> None:
    first, again = await queue.put([new(unique="u"), new(unique="u")])
    assert again == Enqueued(first.id, False)
    term = await attach(queue)
    for outcome in (Outcome.RETRY, Outcome.RETURNED, Outcome.DONE):
        assert await queue.put([new(unique="u")]) == [Enqueued(first.id, False)], outcome
        await write_ends(queue, term, ends(await take(queue, term), outcome))
    (second,) = await queue.put([new(unique="u")])
    assert second.new
    await queue.cancel([second.id])
    (third,) = await queue.put([new(unique="u")])
    assert third.new
    assert await queue.replay([second.id]) == set(), "another of its mark is unfinished"
    await queue.cancel([third.id])
    assert await queue.replay([second.id, third.id]) == {second.id}


async def test_an_order_is_kept(engine: Engine, queue: Queue) -> None:
    a1, a2, a3, b1 = ids(
        await queue.put([new("a1", order="a"), new("a2", order="a"), new("a3", order="a"), new("b1", order="b")])
    )
    assert await states(queue, [a1, a2, a3, b1]) == [State.WAITING, State.BLOCKED, State.BLOCKED, State.WAITING]
    term = await attach(queue)
    claimed = await take(queue, term)
    assert {c.id for c in claimed} == {a1, b1}
    (a4,) = ids(await queue.put([new("a4", order="a")]))
    await queue.cancel([a3])
    (first,) = (c for c in claimed if c.id == a1)
    await write_ends(queue, term, ends([first], Outcome.RETRY, due_us=engine.now_us() + 1_000_000))
    assert await take(queue, term) == [], "one that comes again holds its place"
    engine.pass_s(1)
    (again,) = await take(queue, term)
    assert (again.id, again.attempt) == (a1, 2)
    await write_ends(queue, term, ends([again], Outcome.DEAD, error="no"))
    (second,) = await take(queue, term)
    assert second.id == a2
    await write_ends(queue, term, ends([second]))
    assert [c.id for c in await take(queue, term)] == [a4]
    assert await queue.replay([a3]) == {a3}, "at the end of the line"
    assert await states(queue, [a3]) == [State.BLOCKED]


async def test_a_rate_holds_over_all_workers(engine: Engine, queue: Queue) -> None:
    await queue.put([new("slow", rate=2.0)] * 5 + [new("quick")] * 3)
    terms = [await attach(queue, "a"), await attach(queue, "b")]
    started: list[tuple[int, str]] = []
    for _ in range(40):
        for term in terms:
            turn = await queue.turn(term, [], [Want("default", 2)])
            started += [(engine.now_us(), c.job) for c in turn.claimed]
            if turn.claimed == [] and turn.next_due_us is not None:
                assert turn.next_due_us - engine.now_us() <= 500_000
        engine.pass_s(0.05)
    assert sum(job == "quick" for _, job in started[:4]) >= 3, "nobody waits behind one held back by its rate"
    slow = [us for us, job in started if job == "slow"]
    assert len(slow) == 4
    assert all(later - earlier >= 500_000 for earlier, later in itertools.pairwise(slow))


# Chains and groups


async def test_a_chain_goes_on_with_what_is_done(queue: Queue) -> None:
    (first,) = ids(await queue.put([new("a", then=(new("b", b'{"n":1}', queue="other"), new("c")))]))
    term = await attach(queue)
    (a,) = await take(queue, term)
    await write_ends(queue, term, ends([a], Outcome.RETRY))
    assert await take(queue, term, of="other") == []
    (a,) = await take(queue, term)
    turn = await queue.turn(term, ends([a]), [Want("other", 5), Want("default", 5)])
    (b,) = turn.claimed
    assert (a.id, b.job, b.payload, b.attempt) == (first, "b", b'{"n":1}', 1)
    turn = await queue.turn(term, ends([b]), [Want("default", 5)])
    (c,) = turn.claimed
    assert c.job == "c"
    await write_ends(queue, term, ends([c], Outcome.DEAD, error="no"))
    assert await take(queue, term) == []


async def test_a_group_leads_on_once_all_of_it_is_done(queue: Queue) -> None:
    group, members = await queue.put_group([new("a"), new("b", then=(new("b2"),)), new("c")], new("sum", order="o"))
    assert {(await one(queue, member.id)).group for member in members} == {group}
    assert await states(queue, [group]) == [State.BLOCKED]
    term = await attach(queue)
    a, b, c = await take(queue, term)
    await write_ends(queue, term, ends([a, b]))
    await write_ends(queue, term, ends([c], Outcome.DEAD, error="no"))
    (b2,) = await take(queue, term)
    assert b2.job == "b2"
    await write_ends(queue, term, ends([b2]))
    assert await take(queue, term) == []
    await queue.cancel([group])
    assert await queue.replay([group, c.id]) == {group, c.id}
    assert await states(queue, [group, c.id]) == [State.BLOCKED, State.WAITING]
    await write_ends(queue, term, ends(await take(queue, term)))
    (last,) = await take(queue, term)
    assert (last.job, last.id) == ("sum", group)


async def test_a_group_put_again_is_the_same(queue: Queue) -> None:
    (there,) = ids(await queue.put([new("a", key="a")]))
    put = await queue.put_group([new("a", key="a"), new("b")], new("sum", key="s"))
    group, members = put
    assert (members[0], members[1].new) == (Enqueued(there, False), True)
    again = await queue.put_group([new("a", key="a"), new("b")], new("sum", key="s"))
    assert again == (group, [Enqueued(id_, False) for id_ in ids(members)])
    with pytest.raises(Conflict, match="belongs to another group"):
        await queue.put_group([new("a", key="a")], new("sum", key="other"))
    term = await attach(queue)
    for _ in range(2):
        await write_ends(queue, term, ends(await take(queue, term)))
    assert await states(queue, [group]) == [State.DONE]


async def test_a_group_of_what_is_done_leads_on_at_once(queue: Queue) -> None:
    await queue.put([new("a", key="a")])
    term = await attach(queue)
    await write_ends(queue, term, ends(await take(queue, term)))
    for members in ([], [new("a", key="a")]):
        group, _ = await queue.put_group(members, new("sum"))
        assert await states(queue, [group]) == [State.WAITING]


# Terms


async def test_a_worker_whose_term_is_over_writes_nothing(engine: Engine, queue: Queue) -> None:
    await queue.put([new()])
    term = await attach(queue)
    claimed = await take(queue, term)
    engine.pass_s(TTL_S)
    with pytest.raises(Conflict) as over:
        await queue.turn(term, ends(claimed), [Want("default", 1)])
    assert over.value.code == "term_over"
    assert await queue.renew(term, TTL_S) is False
    assert await states(queue, [claimed[0].id]) == [State.RUNNING]


async def test_a_term_that_is_renewed_goes_on(engine: Engine, queue: Queue) -> None:
    await queue.put([new()])
    term = await attach(queue)
    claimed = await take(queue, term)
    for _ in range(3):
        engine.pass_s(TTL_S * 0.9)
        assert await queue.renew(term, TTL_S)
        assert await queue.reap() == 0
    assert (await write_ends(queue, term, ends(claimed))).lost == []


async def test_a_term_is_renewed_from_another_loop(engine: Engine, queue: Queue) -> None:
    term = await attach(queue)
    engine.pass_s(TTL_S * 0.9)
    renewed: list[bool] = []
    thread = threading.Thread(target=lambda: renewed.append(asyncio.run(queue.renew(term, TTL_S))))
    thread.start()
    thread.join(PATIENCE_S)  # while this loop does nothing else
    assert renewed == [True]
    engine.pass_s(TTL_S * 0.9)
    await write_ends(queue, term, [])


async def test_what_a_dead_worker_held_comes_back_until_it_is_too_often(engine: Engine, queue: Queue) -> None:
    (id_,) = ids(await queue.put([new()]))
    terms = set()
    for stalls in range(STALLS_MAX):
        term = await attach(queue)
        terms.add(term)
        (claimed,) = await take(queue, term)
        assert (claimed.id, claimed.attempt, claimed.stalls) == (id_, stalls + 1, stalls)
        assert await queue.reap() == 0
        engine.pass_s(TTL_S)
        assert await queue.reap() == (stalls + 1 < STALLS_MAX)
    assert len(terms) == STALLS_MAX, "a number is not given out again"
    dead = await one(queue, id_)
    assert (dead.state, dead.stalls, dead.attempts) == (State.DEAD, STALLS_MAX, STALLS_MAX)
    assert "stalled" in dead.error


async def test_an_end_is_lost_when_others_hold_the_job(engine: Engine, queue: Queue) -> None:
    await queue.put([new(), new()])
    old = await attach(queue)
    mine, _ = await take(queue, old)
    engine.pass_s(TTL_S)
    assert await queue.reap() == 2
    fresh = await attach(queue, "fresh")
    same, second = await take(queue, fresh)
    assert (same.id, same.attempt) == (mine.id, 2)
    back = await attach(queue, "back")
    turn = await write_ends(queue, back, ends([mine], result=b'"old"') + ends([mine]))
    assert turn.lost == [mine.id]
    assert (await write_ends(queue, fresh, ends([same, second], result=b'"new"'))).lost == []
    assert (await one(queue, mine.id)).result == b'"new"'
    assert (await write_ends(queue, fresh, ends([same]))).lost == [same.id], "it is over"


async def test_who_leaves_gives_back_what_was_not_done(queue: Queue) -> None:
    (id_, other) = ids(await queue.put([new(), new("cancelled")]))
    term = await attach(queue)
    await take(queue, term)
    await queue.cancel([other])
    await queue.detach(term)
    assert await states(queue, [id_, other]) == [State.WAITING, State.CANCELLED]
    with pytest.raises(Conflict):
        await queue.turn(term, [], [])
    assert await queue.reap() == 0
    assert (await one(queue, other)).worker == "worker", "it is remembered who had it"
    (claimed,) = await take(queue, await attach(queue))
    assert (claimed.id, claimed.attempt, claimed.stalls) == (id_, 1, 0)


async def test_what_failed_comes_again_and_what_was_interrupted_is_not_counted(engine: Engine, queue: Queue) -> None:
    await queue.put([new("fails"), new("stops"), new("unknown", priority=7)])
    term = await attach(queue)
    fails, stops, unknown = sorted(await take(queue, term), key=lambda c: c.job)
    assert [c.priority for c in (fails, stops, unknown)] == [5, 5, 7]
    due_us = engine.now_us() + 3_000_000
    await write_ends(
        queue,
        term,
        [
            *ends([fails], Outcome.RETRY, due_us=due_us, error="ValueError: no"),
            *ends([stops], Outcome.RETURNED),
            *ends([unknown], Outcome.RETURNED, due_us=due_us),
        ],
    )
    turn = await queue.turn(term, [], [Want("default", 5)])
    assert [(c.id, c.attempt) for c in turn.claimed] == [(stops.id, 1)]
    assert turn.next_due_us == due_us
    stored = await one(queue, fails.id)
    assert (stored.state, stored.error, stored.attempts, stored.due_us) == (State.WAITING, "ValueError: no", 1, due_us)
    engine.pass_s(3)
    again, returned = sorted(await take(queue, term), key=lambda c: c.job)
    assert (again.id, again.attempt, again.due_us) == (fails.id, 2, due_us)
    assert (returned.id, returned.attempt) == (unknown.id, 1)
    await write_ends(queue, term, ends([again], Outcome.DEAD, error="ValueError: never"))
    dead = await one(queue, fails.id)
    assert (dead.state, dead.error, dead.finished_us) == (State.DEAD, "ValueError: never", engine.now_us())


async def test_an_end_is_written_whatever_a_job_says(queue: Queue) -> None:
    await queue.put([new()] * 3)
    term = await attach(queue)
    dead, large, late = await take(queue, term)
    odd = "nul \0, half a pair \ud800, " + "long " * 10_000
    await queue.report(term, [Progress(dead.id, -1, 1 << 70, odd)])
    turn = await write_ends(
        queue,
        term,
        [
            *ends([dead], Outcome.DEAD, error=odd),
            *ends([large], result=b"1" * (2 << 20)),
            *ends([late], Outcome.RETRY, due_us=1 << 61),
        ],
    )
    assert turn.lost == []
    assert await states(queue, [dead.id, large.id, late.id]) == [State.DEAD, State.DONE, State.WAITING]


@needs(SHARED)
async def test_no_job_is_taken_twice_by_two_processes(engine: Engine, queue: Queue) -> None:
    second = await engine.another()
    await queue.put([new()] * 300)
    taken: list[int] = []

    async def work(mine: Queue) -> None:
        """Until all are taken: a log whose partitions change hands gives nothing for a moment."""
        term = await attach(mine)
        ended: list[Ended] = []
        while ended or len(taken) < 300:
            turn = await mine.turn(term, ended, [Want("default", 7)])
            assert turn.lost == []
            taken.extend(c.id for c in turn.claimed)
            ended = ends(turn.claimed)
            if not turn.claimed:
                await mine.news(0.01)

    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(work(queue), work(second), work(second))
    assert sorted(taken) == sorted(set(taken))
    assert len(taken) == 300


# Who looks and decides


async def test_jobs_are_cancelled_wherever_they_are(engine: Engine, queue: Queue) -> None:
    first, second, held, stopping = ids(
        await queue.put([new("a", order="o"), new("b", order="o"), new("c", priority=0), new("d", priority=0)])
    )
    term = await attach(queue)
    (c, d) = await take(queue, term, 2)
    everything = [first, second, held, stopping]
    assert await queue.unfinished(everything) == set(everything)
    assert await queue.cancel([second, held, stopping, 1 << 40]) == {second, held, stopping}
    assert await queue.cancel([held]) == {held}
    assert await states(queue, everything) == [State.WAITING, State.CANCELLED, State.RUNNING, State.RUNNING]
    turn = await write_ends(queue, term, ends([c], Outcome.RETRY, due_us=engine.now_us()))
    assert list(turn.cancel) == [stopping], "asked to end; the one that is told already has"
    await write_ends(queue, term, ends([d]))
    assert await states(queue, [held, stopping]) == [State.CANCELLED, State.DONE]
    assert (await write_ends(queue, term, [])).cancel == []
    assert await queue.cancel([held, stopping]) == set()
    assert await queue.unfinished(everything) == {first}


async def test_dead_ones_are_replayed_as_new(queue: Queue) -> None:
    dead, done = ids(await queue.put([new("x", key="k", trace="t"), new("y")]))
    term = await attach(queue)
    claimed = {c.id: c for c in await take(queue, term)}
    await write_ends(queue, term, [*ends([claimed[dead]], Outcome.DEAD, error="no"), *ends([claimed[done]])])
    assert await queue.replay([dead, done, 1 << 40]) == {dead}
    (again,) = await take(queue, term)
    assert (again.id, again.attempt, again.stalls, again.key, again.trace) == (dead, 1, 0, "k", "t")
    assert await queue.forget([dead, done, 1 << 40]) == {done}
    assert await states(queue, [dead, done]) == [State.RUNNING, None]


async def test_progress_is_told_by_who_runs_it(engine: Engine, queue: Queue) -> None:
    await queue.put([new()])
    term, other = await attach(queue), await attach(queue)
    (claimed,) = await take(queue, term)
    await queue.report(other, [Progress(claimed.id, 9, 9)])
    assert (await one(queue, claimed.id)).progress is None
    await queue.report(term, [Progress(claimed.id, 3, 10, "third"), Progress(1 << 40, 1, 1)])
    assert (await one(queue, claimed.id)).progress == Progress(claimed.id, 3, 10, "third")


async def test_pages_hold_what_was_asked_for(engine: Engine, queue: Queue) -> None:
    early_us = engine.now_us()
    await queue.put([new("a", queue="one", schedule="s"), new("b", key="k")])
    engine.pass_s(1)
    late_us = engine.now_us()
    await queue.put([new("c"), new("c"), new("d", due_us=late_us + 1)])
    term = await attach(queue)
    claimed = sorted(await take(queue, term, 3), key=lambda c: c.id)
    await write_ends(queue, term, ends([claimed[0]]) + ends(claimed[1:2], Outcome.DEAD, error="Boom: 100% of _it_"))

    async def page(**which: Any) -> str:
        return "".join(stored.job for stored in await queue.page(Filter(**which)))

    assert await page() == "dccba"
    assert await page(queue="one") == "a"
    assert await page(job="c") == "cc"
    assert await page(schedule="s") == "a"
    assert await page(key="k") == "b"
    assert await page(state=State.DONE) == "b"
    assert await page(state=State.RUNNING) == "c"
    assert await page(state=State.WAITING) == "da"
    assert await page(state=State.DEAD) == await page(error="100% of _i") == "c"
    assert await page(error="boom") == await page(error="100_") == await page(state=State.CANCELLED) == ""
    assert await page(until_us=late_us) == "ba"
    assert await page(since_us=early_us + 1, job="d") == "d"
    first = await queue.page(Filter(), limit=2)
    rest = await queue.page(Filter(), after=first[-1].id, limit=10)
    assert "".join(stored.job for stored in [*first, *rest]) == "dccba"
    with pytest.raises(Invalid, match="give 1 to"):
        await queue.page(Filter(), limit=0)


async def test_counts_are_of_each_queue(engine: Engine, queue: Queue) -> None:
    now_us = engine.now_us()
    await queue.put([new(queue="one", priority=9), new(queue="one", due_us=now_us + 1_000_000)])
    engine.pass_s(0.5)
    await queue.put([new(queue="one", rate=1.0), new(queue="one", order="o"), new(queue="one", order="o")])
    await queue.configure("set", QueueSettings(paused=True))
    one_, set_ = await queue.counts()
    assert set_ == QueueCounts(queue="set")
    assert one_ == QueueCounts(queue="one", waiting=4, delayed=1, blocked=1, oldest_due_us=now_us + 500_000)


async def test_settings_are_heard_of_and_paused_queues_give_nothing(queue: Queue) -> None:
    await queue.put([new()])
    await queue.configure("default", QueueSettings(concurrency=7, paused=True))
    term = await attach(queue)
    turn = await queue.turn(term, [], [Want("default", 1)])
    assert turn.claimed == []
    assert turn.settings == await queue.settings() == {"default": QueueSettings(concurrency=7, paused=True)}
    await queue.configure("default", QueueSettings())
    assert len(await take(queue, term)) == 1
    with pytest.raises(Invalid):
        await queue.configure("default", QueueSettings(concurrency=-1))


# Time goes by


@needs(RETENTION)
async def test_what_was_kept_long_enough_is_forgotten(engine: Engine, queue: Queue) -> None:
    done, cancelled, dead, waiting = ids(
        await queue.put([new("a", key="k"), new("b"), new("c"), new("d", due_us=engine.now_us() + 10**12)])
    )
    await queue.cancel([cancelled])
    term = await attach(queue)
    claimed = {c.id: c for c in await take(queue, term)}
    await write_ends(queue, term, ends([claimed[done]]) + ends([claimed[dead]], Outcome.DEAD))
    everything = [done, cancelled, dead, waiting]
    engine.pass_s(KEEP_S * 0.9)
    await queue.reap()
    assert None not in await states(queue, everything)
    engine.pass_s(KEEP_S * 0.2)
    await queue.reap()
    assert await states(queue, everything) == [None, None, State.DEAD, State.WAITING]
    (again,) = await queue.put([new("a", key="k")])
    assert again.new
    (counts,) = await queue.counts()
    assert (counts.done, counts.cancelled, counts.dead) == (0, 0, 1)


@needs(RETENTION)
async def test_a_job_that_was_cancelled_never_runs_however_long_it_stood(engine: Engine, queue: Queue) -> None:
    """In a log it stands until it is read, and then only a row says that it was cancelled."""
    enqueued = ids(await queue.put([new(), new()]))
    assert await queue.cancel(enqueued) == set(enqueued)
    await queue.forget(enqueued[:1])
    engine.pass_s(KEEP_S * 1.1)
    await queue.reap()
    term = await attach(queue)
    assert await take(queue, term) == []
    engine.pass_s(KEEP_S * 1.1)
    await queue.reap()
    async with asyncio.timeout(PATIENCE_S):
        while await states(queue, enqueued) != [None, None]:  # a log's reader says in a moment how far it is
            await asyncio.sleep(0.02)
            await queue.reap()


async def test_what_a_term_holds_can_be_asked(engine: Engine, queue: Queue) -> None:
    """A worker that does not know what came of a turn asks, and keeps its jobs."""
    await queue.put([new()])
    term = await attach(queue)
    (claimed,) = await take(queue, term)
    asked: Any = queue
    assert [(one.id, one.attempt, one.job) for one in await asked.held(term)] == [(claimed.id, 1, claimed.job)]


async def test_news_come_with_what_is_put(engine: Engine, queue: Queue) -> None:
    term = await attach(queue)
    assert await take(queue, term) == []
    await asyncio.wait_for(queue.news(0.01), PATIENCE_S)  # none, and that is said in time
    waiting = asyncio.create_task(queue.news(3600))
    await asyncio.sleep(0)
    await queue.put([new()])
    await asyncio.wait_for(waiting, PATIENCE_S)
    await asyncio.wait_for(queue.news(3600), PATIENCE_S)  # still there to be taken
    assert len(await take(queue, term)) == 1


@needs(TRANSACTIONS)
async def test_news_come_with_the_callers_commit(engine: Engine, queue: Queue) -> None:
    term = await attach(queue)
    await take(queue, term)
    waiting = asyncio.create_task(queue.news(3600))
    await asyncio.sleep(0)

    async def unit(tx: Tx) -> None:
        await queue.put([new()], tx)

    await engine.store.write(unit)
    await asyncio.wait_for(waiting, PATIENCE_S)


@needs(SHARED)
async def test_news_come_from_other_processes(engine: Engine, queue: Queue) -> None:
    second = await engine.another()
    term = await attach(queue)
    await take(queue, term)
    waiting = asyncio.create_task(queue.news(3600))
    await asyncio.sleep(0)
    await second.put([new()])
    await asyncio.wait_for(waiting, PATIENCE_S)


async def test_too_much_at_once_is_refused(queue: Queue) -> None:
    term = await attach(queue)
    many = list(range(10_001))
    for call in (queue.find, queue.unfinished, queue.cancel, queue.replay, queue.forget):
        with pytest.raises(Invalid, match="10,000 at most"):
            await call(many)
    with pytest.raises(Error):
        await queue.turn(term, [], [Want("default", 10_001)])
    with pytest.raises(Invalid, match="a term of"):
        await attach(queue, ttl_s=0)
