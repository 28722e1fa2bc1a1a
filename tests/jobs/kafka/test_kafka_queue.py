"""On a real broker: members that come, go and are killed, a broker that is, and what waits in the log."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, ConsumerGroupState, KafkaError, KafkaException, TopicPartition
from tests import engines

from dougong.clock import SystemClock
from dougong.errors import Unavailable
from dougong.jobs import Claimed, Ended, Enqueued, Filter, NewJob, Outcome, SqlQueueSettings, State, Want, WorkerInfo
from dougong.jobs.kafka import KafkaQueue, KafkaQueueSettings, intake
from dougong.store import Store, Tx, open_store

pytestmark = pytest.mark.xdist_group("kafka")  # one broker for all of them

PATIENCE_S = 60.0
Make = Callable[..., Awaitable[KafkaQueue]]


def settings(prefix: str) -> KafkaQueueSettings:
    return KafkaQueueSettings(
        prefix=prefix, partitions=4, replicas=1, session_s=3.0, commit_every_s=0.05, join_s=PATIENCE_S
    )


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/jobs.db"


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    opened = await open_store(url)
    yield opened
    await opened.close()


@pytest.fixture
def prefix() -> str:
    return f"test{secrets.token_hex(6)}."


@pytest.fixture
async def make(store: Store, prefix: str) -> AsyncIterator[Make]:
    """Queues as several processes would have them, on one log and one database."""
    made: list[KafkaQueue] = []

    async def one(*, rows: SqlQueueSettings | None = None, queues: Sequence[str] = (), **options: Any) -> KafkaQueue:
        chosen = msgspec.structs.replace(settings(prefix), **options)
        queue = KafkaQueue(store, engines.kafka().address, SystemClock(), chosen, queues=queues, rows=rows)
        made.append(queue)
        await queue.start()
        return queue

    yield one
    for queue in made:
        await queue.close()


async def attach(queue: KafkaQueue, ttl_s: float = 600.0) -> int:
    return await queue.attach(WorkerInfo(name="worker"), ttl_s)


async def put_one_by_one(queue: KafkaQueue, count: int) -> list[int]:
    """Each a record of its own, over all partitions."""
    enqueued: list[Enqueued] = []
    for start in range(0, count, 10):
        for n in range(start, min(start + 10, count)):
            enqueued += await queue.put([NewJob(job="greet", payload=b'{"n":%d}' % n)])
    return [each.id for each in enqueued]


async def work(queue: KafkaQueue, done: Counter[int], *, until: int, turns: int = 1 << 30) -> None:
    """Take and end jobs, until so many are done in all, or for so many turns; what is held then is given back."""
    term = await attach(queue)
    ended: list[Ended] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(done) < until and turns > 0:
            turns -= 1
            turn = await queue.turn(term, ended, [Want("default", 9)])
            done.update(each.claimed.id for each in ended if each.claimed.id not in turn.lost)
            ended = [Ended(claimed=each, outcome=Outcome.DONE) for each in turn.claimed]
            if not ended:
                await queue.news(0.1)
    await queue.detach(term)


async def test_members_come_and_go_and_every_job_is_done_once(make: Make) -> None:
    first = await make()
    ids = await put_one_by_one(first, 250)
    done: Counter[int] = Counter()

    async def come_and_go() -> None:
        while len(done) < len(ids):
            queue = await make()
            await work(queue, done, until=len(ids), turns=6)
            await queue.close()

    await asyncio.gather(work(first, done, until=len(ids)), come_and_go(), come_and_go())
    assert set(done) == set(ids)
    assert max(done.values()) == 1
    (counts,) = await first.counts()
    assert (counts.done, counts.waiting, counts.running) == (len(ids), 0, 0)


async def held_by_who_comes_next(make: Make) -> int:
    """Of five jobs the last four are done, out of order; how many the next owner of the log reads again."""
    before = await make()
    await before.put([NewJob(job="last", payload=b"{}", priority=9)])
    part, _ = next(iter(before._written.items()))
    term = await attach(before)
    topic = before._settings.topic("default")
    outlet = before._outlet
    assert outlet is not None
    for _ in range(4):  # into the same partition
        outlet._producer.produce(topic, b"\x91\x93\xa5first\xc4\x02{}\x00", partition=part.partition)
    outlet._producer.flush(PATIENCE_S)
    assert before._intake is not None
    while before._intake.holds("default") < 5:
        await before.news(0.1)
    turn = await before.turn(term, [], [Want("default", 4)])
    assert [each.job for each in turn.claimed] == ["first"] * 4
    await before.turn(term, [Ended(claimed=each, outcome=Outcome.DONE) for each in turn.claimed], [])
    await before.close()

    after = await make()
    await attach(after)
    assert after._intake is not None
    async with asyncio.timeout(PATIENCE_S):
        while after._intake._assignment.has_read(part, 4) is False or not after._intake.holds("default"):
            await after.news(0.1)
    return after._intake.holds("default")


async def test_the_next_owner_passes_over_what_was_finished_out_of_order(make: Make) -> None:
    assert await held_by_who_comes_next(make) == 1


async def test_without_the_map_it_comes_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ablation; only the rows still keep those jobs from being run a second time."""
    monkeypatch.setattr(intake, "read_map", lambda *_: frozenset())
    assert await held_by_who_comes_next(make) == 5


async def test_what_comes_again_without_any_commit_meets_its_row(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    before = await make()
    ids = await put_one_by_one(before, 20)
    done: Counter[int] = Counter()
    monkeypatch.setattr(intake.Intake, "_commit", lambda *_, **__: None)
    await work(before, done, until=20)
    await before.close()

    after = await make()
    term = await attach(after)
    assert after._intake is not None
    while after._intake.holds("default") < 20:
        await after.news(0.1)
    assert (await after.turn(term, [], [Want("default", 50)])).claimed == []
    assert after._intake.holds("default") == 0
    assert done == Counter(ids)


async def test_a_broker_that_is_killed_comes_back_to_all_that_was_acknowledged(make: Make) -> None:
    queue = await make()
    ids = await put_one_by_one(queue, 10)
    broker = engines.kafka()
    broker.kill()
    try:
        # The database's own jobs are done meanwhile.
        (kept,) = await queue.put([NewJob(job="keyed", payload=b"{}", key="1")])
        waits = asyncio.create_task(put_one_by_one(queue, 5))
        term = await queue._rows.attach(WorkerInfo(name="worker"), 600)
        turn = await queue.turn(term, [], [Want("default", 9)])
        assert [each.id for each in turn.claimed] == [kept.id]
        await queue.turn(term, [Ended(claimed=each, outcome=Outcome.DONE) for each in turn.claimed], [])
    finally:
        broker.start()
    ids += await waits
    done: Counter[int] = Counter()
    await work(queue, done, until=15)
    assert done == Counter(ids)


async def test_a_process_that_is_killed_loses_no_job(make: Make, store: Store, url: str, prefix: str) -> None:
    queue = await make()
    ids = await put_one_by_one(queue, 40)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.jobs.kafka.test_kafka_queue", url, engines.kafka().address, prefix],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    ) as victim:
        assert victim.stdout is not None
        reading = asyncio.create_task(asyncio.to_thread(victim.stdout.readline))
        said = (await asyncio.wait_for(reading, PATIENCE_S)).split()
        victim.kill()
    held, ended = {int(each) for each in said[0].split(",")}, {int(each) for each in said[1].split(",")}
    assert held
    assert ended
    await store.write(lambda tx: tx.execute("UPDATE dougong_job_workers SET until_us = 1"))  # its time is up
    done: Counter[int] = Counter()

    async def reap() -> None:
        while len(done) < len(ids) - len(ended):
            await queue.reap()
            await asyncio.sleep(0.2)

    await asyncio.gather(work(queue, done, until=len(ids) - len(ended)), reap())
    assert set(done) == set(ids) - ended
    assert max(done.values()) == 1
    stored = await queue.find(sorted(held))
    assert {(each.state, each.attempts, each.stalls) for each in stored if each is not None} == {(State.DONE, 2, 1)}


async def test_what_waits_in_the_log_is_cancelled_in_a_transaction(make: Make, store: Store) -> None:
    queue = await make()
    (first, second) = await put_one_by_one(queue, 2)

    async def unit(tx: Tx) -> set[int]:
        assert await queue.unfinished([first, second], tx) == {first, second}
        return await queue.cancel([first], tx)

    assert await store.write(unit) == {first}
    assert await queue.unfinished([first, second]) == {second}
    done: Counter[int] = Counter()
    await work(queue, done, until=1)
    assert done == Counter([second])
    term = await attach(queue)
    async with asyncio.timeout(PATIENCE_S):
        while (stored := (await queue.find([first]))[0]) is None or not stored.job:
            await queue.turn(term, [], [Want("default", 5)])
    assert (stored.state, stored.job, stored.payload) == (State.CANCELLED, "greet", b'{"n":0}')
    assert await queue.replay([first]) == {first}
    turn = await queue.turn(term, [], [Want("default", 5)])
    assert [each.payload for each in turn.claimed] == [b'{"n":0}']


async def test_what_is_taken_while_somebody_looks_is_seen(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves the log after the database was looked at, and before the log is."""
    queue = await make()
    term = await attach(queue)
    looking, look = queue._looking, queue._looking._look

    async def taken_before(what: Callable[[Consumer], object]) -> object:
        async with asyncio.timeout(PATIENCE_S):
            while not (await queue.turn(term, [], [Want("default", 1)])).claimed:
                await queue.news(0.1)
            while any(
                depth.records
                for depth in (await look(lambda consumer: looking._depths(consumer, queue._lanes.parts))).values()
            ):
                await asyncio.sleep(0.02)
        return await look(what)

    async def found(id_: int) -> bool:
        (stored,) = await queue.find([id_])
        return stored is not None and stored.state is State.RUNNING

    async def on_the_page(id_: int) -> bool:
        return id_ in [each.id for each in await queue.page(Filter())]

    async def counted(id_: int) -> bool:
        (counts,) = await queue.counts()
        return counts.waiting + counts.running == len(ids)

    async def unfinished(id_: int) -> bool:
        return await queue.unfinished([id_]) == {id_}

    async def cancelled(id_: int) -> bool:
        return await queue.cancel([id_]) == {id_}

    monkeypatch.setattr(looking, "_look", taken_before)
    ids: list[int] = []
    for see in (found, on_the_page, counted, unfinished, cancelled):
        ids += await put_one_by_one(queue, 1)
        assert await see(ids[-1]), see.__name__


async def test_what_nobody_could_say_where_to_begin_is_read_later(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = iter([True, True])

    class Forgetful(Consumer):
        """At first the broker does not answer where the group stands."""

        def committed(self, *args: Any, **options: Any) -> Any:
            if next(silent, False):
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            return super().committed(*args, **options)

    monkeypatch.setattr(intake, "Consumer", Forgetful)
    queue = await make()
    ids = await put_one_by_one(queue, 20)
    done: Counter[int] = Counter()
    await work(queue, done, until=20)
    assert next(silent, None) is None
    assert done == Counter(ids)


async def test_what_was_paused_when_it_went_is_read_when_it_is_back(make: Make) -> None:
    queue = await make(held_max=4, session_s=1.5)
    ids = await put_one_by_one(queue, 12)
    await attach(queue)
    assert queue._intake is not None
    parts = queue._lanes.parts.keys()
    async with asyncio.timeout(PATIENCE_S):
        while queue._intake._paused != parts:
            await asyncio.sleep(0.02)
    other = await make(held_max=4, session_s=1.5)
    await attach(other)
    assert queue._intake._assignment.parts != parts
    await other.close()
    done: Counter[int] = Counter()
    await work(queue, done, until=12)
    assert done == Counter(ids)


async def members(queue: KafkaQueue) -> int:
    """How many the broker takes for members of the group, once a rebalance is over."""
    group = queue._settings.group
    described = await asyncio.wrap_future(queue._lanes._admin.describe_consumer_groups([group])[group])
    return len(described.members) if described.state is ConsumerGroupState.STABLE else -1


async def test_a_member_that_has_no_partition_leaves_as_well(make: Make) -> None:
    """Else the group would wait for it until its session is over, which here is later than anybody waits."""
    queue = await make(partitions=1, session_s=300.0)
    await attach(queue)
    other = await make(partitions=1, session_s=300.0, join_s=0.1)
    await attach(other)
    async with asyncio.timeout(PATIENCE_S):
        while await members(queue) != 2:
            await asyncio.sleep(0.05)
        await other.close()
        while await members(queue) != 1:
            await asyncio.sleep(0.05)


async def test_topics_are_there_before_anything_is_put(make: Make) -> None:
    queue = await make(queues=["default", "reports"])
    topics = await asyncio.to_thread(lambda: queue._lanes._admin.list_topics(timeout=PATIENCE_S).topics)
    for name in ("default", "reports"):
        assert len(topics[queue._settings.topic(name)].partitions) == 4
    assert queue._settings.topic("other") not in topics


async def test_what_is_settled_is_deleted_from_the_log(make: Make) -> None:
    queue = await make()
    await put_one_by_one(queue, 12)
    done: Counter[int] = Counter()
    await work(queue, done, until=12)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            queue._purge_at_s = 0.0
            await queue.reap()
            lanes = await queue._seeing.lanes_of("default")
            heads = await queue._looking.heads(lanes, 10)
            if sum(depth.low for depth, _ in heads.values()) == 12:
                break
            await asyncio.sleep(0.05)
    consumer = queue._looking._open()
    topic = queue._settings.topic("default")
    firsts = [consumer.get_watermark_offsets(TopicPartition(topic, part.partition), timeout=60)[0] for part in lanes]
    assert sum(firsts) == 12


async def test_a_broker_that_was_never_there_is_unavailable_and_tables_go_on(store: Store) -> None:
    nowhere = f"127.0.0.1:{engines.free_port()}"
    patience = KafkaQueueSettings(prefix="nowhere.", answer_s=1.0, put_s=1.0, join_s=1.0)
    queue = KafkaQueue(store, nowhere, SystemClock(), patience, queues=["default"])
    await queue.start()
    try:
        with pytest.raises(Unavailable):
            await queue.put([NewJob(job="greet", payload=b"{}")])
        (kept,) = await queue.put([NewJob(job="greet", payload=b"{}", key="1")])
        term = await attach(queue)
        assert [each.id for each in (await queue.turn(term, [], [Want("default", 5)])).claimed] == [kept.id]
    finally:
        await queue.close()


async def _victim(url: str, servers: str, prefix: str) -> None:
    """Ends some jobs, holds others, says which, and waits to be killed."""
    store = await open_store(url)
    queue = KafkaQueue(store, servers, SystemClock(), settings(prefix))
    await queue.start()
    term = await attach(queue)
    ended: list[Ended] = []
    while not ended:
        turn = await queue.turn(term, [], [Want("default", 7)])
        ended = [Ended(claimed=each, outcome=Outcome.DONE) for each in turn.claimed]
    over = [each.claimed.id for each in ended]
    held: list[int] = []
    while not held:
        turn = await queue.turn(term, ended, [Want("default", 5)])
        ended, held = [], [each.id for each in turn.claimed]
    sys.stdout.write(f"{','.join(map(str, held))} {','.join(map(str, over))}\n")
    sys.stdout.flush()
    await asyncio.sleep(PATIENCE_S * 10)


if __name__ == "__main__":
    asyncio.run(_victim(*sys.argv[1:]))


async def test_a_row_stays_while_others_of_its_record_wait(make: Make) -> None:
    """Forgotten sooner, it would not be there to say that its job ran when the record is read again."""
    queue = await make(rows=SqlQueueSettings(keep_s=0.0, sweep_every_s=0.0))
    term = await attach(queue)
    first, second = await queue.put([NewJob(job="a", payload=b"{}", priority=1), NewJob(job="b", payload=b"{}")])
    done = await _next(queue, term)
    assert done.id == first.id
    await queue.turn(term, [Ended(claimed=done, outcome=Outcome.DONE)], [])
    await queue.reap()
    assert await queue.forget([first.id]) == set()
    assert [one is not None and one.state for one in await queue.find([first.id])] == [State.DONE]
    other = await _next(queue, term)
    assert other.id == second.id
    await queue.turn(term, [Ended(claimed=other, outcome=Outcome.DONE)], [])
    async with asyncio.timeout(PATIENCE_S):
        while await queue.find([first.id, second.id]) != [None, None]:  # once it is committed
            await queue.reap()
            await asyncio.sleep(0.02)


async def _next(queue: KafkaQueue, term: int) -> Claimed:
    async with asyncio.timeout(PATIENCE_S):
        while not (turn := await queue.turn(term, [], [Want("default", 1)])).claimed:
            await queue.news(0.1)
    (claimed,) = turn.claimed
    return claimed
