"""An effect happens once, however often its job runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.jobs.queues import TTL_S, attach, new, sql_engine, take

from dougong.clock import ManualClock
from dougong.errors import Invalid
from dougong.jobs import Effects
from dougong.store import Migration, Store, Tx, open_store

ACCOUNTS = [Migration(1, "accounts", "CREATE TABLE accounts (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL)")]


@pytest.fixture
async def store(fresh_url: Callable[[], str]) -> AsyncIterator[Store]:
    opened = await open_store(fresh_url(), name="accounts")
    await opened.migrate("test", ACCOUNTS)
    await opened.write(lambda tx: tx.execute("INSERT INTO accounts (id, balance) VALUES (1, 100)"))
    yield opened
    await opened.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def effects(store: Store, clock: ManualClock) -> Effects:
    made = Effects(store, clock, keep_s=100)
    await made.start()
    return made


async def book(store: Store, effects: Effects, job: int) -> None:
    async def unit(tx: Tx) -> None:
        if await effects.first(tx, job):
            await tx.execute("UPDATE accounts SET balance = balance - 5 WHERE id = 1")

    await store.write(unit)


async def balance(store: Store) -> object:
    row = await store.fetch_one("SELECT balance FROM accounts WHERE id = 1")
    assert row is not None
    return row[0]


async def test_an_effect_happens_once_for_each_job(store: Store, effects: Effects) -> None:
    for job in (7, 7, 8):
        await book(store, effects, job)
    assert await balance(store) == 90
    other = Effects(store, ManualClock(), source="other")
    await book(store, other, 7)
    assert await balance(store) == 85, "another queue's job with the same number"


async def test_an_effect_that_was_undone_was_none(store: Store, effects: Effects) -> None:
    async def undone(tx: Tx) -> None:
        assert await effects.first(tx, 7)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await store.write(undone)
    await book(store, effects, 7)
    assert await balance(store) == 95


async def test_what_was_kept_long_enough_is_forgotten(
    store: Store, clock: ManualClock, effects: Effects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dougong.jobs.effects.FORGET_ROWS", 3)
    for job in range(7):
        await book(store, effects, job)
    clock.advance(60)
    await book(store, effects, 2000)
    clock.advance(60)
    assert await effects.sweep() == 7
    assert await store.fetch_all("SELECT job_id FROM dougong_job_effects") == [(2000,)]


def test_a_source_that_would_not_fit_is_refused(store: Store, clock: ManualClock) -> None:
    with pytest.raises(Invalid, match="at most 100"):
        Effects(store, clock, source="x" * 101)


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_a_job_that_runs_twice_books_once_because_of_the_record(
    recorded: bool, store: Store, effects: Effects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker dies after the effect and before the end is written. Ablation: without the record it books twice."""

    async def always(tx: Tx, job: int) -> bool:
        return True

    if not recorded:
        monkeypatch.setattr(effects, "first", always)
    async with sql_engine("sqlite", tmp_path) as jobs:
        await jobs.queue.put([new()])
        for _ in range(2):
            (claimed,) = await take(jobs.queue, await attach(jobs.queue))
            await book(store, effects, claimed.id)
            jobs.pass_s(TTL_S)
            await jobs.queue.reap()
    assert await balance(store) == (95 if recorded else 90)
