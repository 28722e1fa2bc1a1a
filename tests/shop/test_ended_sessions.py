"""How the news of ended sessions travel: from databases to processes of users, and from there to everybody else."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from tests.shop.test_sessions import customer, opened
from tests.shop.user_desk import Desk, user_desk

from dougong.clock import ManualClock
from dougong.errors import Unavailable
from dougong.rpc import EndedSessions
from dougong.store import Store
from shop.users import (
    EndedPage,
    EndedSession,
    EndedSince,
    FeedMark,
    Users,
    _following,
    follow_ended_sessions,
    learn_ended_sessions,
)
from shop.users._following import EndedReader
from shop.users.auth_jwt import EndedFeed, EndedWatch, read_token
from shop.users.user_core import User

R = TypeVar("R")
SECOND_US = 1_000_000
PATIENCE_S = 60.0


class Processes:
    """Some processes of users behind one client, any of which may answer; `page` items at once."""

    def __init__(self, feeds: list[EndedFeed], rng: random.Random, page: int = 3) -> None:
        self.feeds = feeds
        self.rng = rng
        self.page = page
        self.calls = 0
        self.down = False

    async def ended_sessions(self, request: EndedSince) -> EndedPage:
        self.calls += 1
        if self.down:
            raise Unavailable("users is away", code="connect_failed")
        feed = self.rng.choice(self.feeds)
        position = next((mark.position for mark in request.marks if mark.feed == feed.name), 0)
        page = feed.after(position, self.page)
        items = [EndedSession(session_id=session, until_us=until) for session, until in page.items]
        return EndedPage(mark=FeedMark(feed=page.feed, position=page.position), items=items, more=page.more)


def reader_of(processes: Processes, ended: EndedSessions) -> EndedReader:
    return EndedReader(cast(Users, processes), ended)


@given(
    st.integers(0, 1 << 32),
    st.lists(st.tuples(st.sampled_from(["learn", "wait", "read", "restart"]), st.integers(1, 90)), max_size=60),
)
def test_a_reader_hears_everything_that_is_still_of_use(seed: int, steps: list[tuple[str, int]]) -> None:
    """Whichever process answers, in pieces, with some that start anew: after having asked each, all is known."""
    clock, rng = ManualClock(), random.Random(seed)
    processes = Processes([EndedFeed(EndedSessions(clock), clock) for _ in range(2)], rng)
    ended = EndedSessions(clock)
    reader = reader_of(processes, ended)
    until: dict[str, int] = {}

    def learn(feed: EndedFeed, session: int, until_us: int) -> None:
        feed.learn(session, until_us)
        until[str(session)] = max(until.get(str(session), 0), until_us)

    for action, number in steps:
        if action == "learn":
            learn(rng.choice(processes.feeds), number, clock.now_us() + rng.randint(0, 30) * SECOND_US)
        elif action == "wait":
            clock.advance(number)
        elif action == "read":
            asyncio.run(reader.read())
        else:  # it reads the databases before it serves
            fresh = EndedFeed(EndedSessions(clock), clock)
            for session, until_us in until.items():
                fresh.learn(int(session), until_us)
            processes.feeds[rng.randrange(2)] = fresh
    for feed in processes.feeds:
        asyncio.run(reader_of_one(processes, feed, reader))
    for session, until_us in until.items():
        assert session in ended or until_us < clock.now_us()


async def reader_of_one(processes: Processes, feed: EndedFeed, reader: EndedReader) -> None:
    feeds, processes.feeds = processes.feeds, [feed]
    await reader.read()
    processes.feeds = feeds


async def test_what_was_read_is_not_sent_again() -> None:
    clock = ManualClock()
    feed = EndedFeed(EndedSessions(clock), clock)
    reader = reader_of(Processes([feed], random.Random(0)), EndedSessions(clock))
    for session in range(1, 11):
        feed.learn(session, clock.now_us() + 60 * SECOND_US)
    assert [await reader.read() for _ in range(3)] == [10, 0, 0]
    feed.learn(3, clock.now_us() + 60 * SECOND_US)
    assert await reader.read() == 0
    feed.learn(3, clock.now_us() + 90 * SECOND_US)
    assert await reader.read() == 1
    clock.advance(1000)
    assert await reader.read() == 0
    assert len(feed) == 0
    feed.learn(11, clock.now_us() + 60 * SECOND_US)  # the list goes on where it was, though its beginning is gone
    assert await reader.read() == 1


async def test_it_remembers_how_far_it_has_read_each_list() -> None:
    clock = ManualClock()
    feeds = [EndedFeed(EndedSessions(clock), clock) for _ in range(3)]
    processes = Processes(feeds, random.Random(0))
    reader = reader_of(processes, EndedSessions(clock))
    for number, feed in enumerate(feeds):
        feed.learn(number + 1, clock.now_us() + 60 * SECOND_US)
    assert sum([await reader.read() for _ in range(50)]) == 3


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest_asyncio.fixture
async def desk(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Desk]:
    async with user_desk(tmp_path, clock=clock) as made:
        yield made


async def end_at(desk: Desk, user: User, ended_us: int) -> str:
    """A session that another process ended, whose clock said that, and which is committed only now."""
    session_id = read_token(await opened(desk, user)).session_id
    await desk.store.store_of(user.id).write(
        lambda tx: tx.execute("UPDATE sessions SET ended_us = ? WHERE id = ?", (ended_us, session_id))
    )
    return str(session_id)


async def test_siblings_learn_from_the_databases(tmp_path: Path, clock: ManualClock) -> None:
    async with user_desk(tmp_path, clock=clock) as one, user_desk(tmp_path, clock=clock) as two:
        users = [await customer(one, f"u{number}@x.example") for number in range(8)]
        await two.watch.look()
        held = [read_token(await opened(one, user)).session_id for user in users]
        for user, session_id in zip(users, held, strict=True):
            assert await one.sessions.end(user.id, "logout") == 1
            assert str(session_id) in one.ended  # at once where it happened
            assert str(session_id) not in two.ended
        clock.advance(1)
        await two.watch.look()
        assert all(str(session_id) in two.ended for session_id in held)
        assert len(two.feed) == 8
        await two.watch.look()
        assert len(two.feed) == 8  # looked at again and again, told on once


@pytest.mark.parametrize(("overlap_s", "learned"), [(60.0, True), (0.0, False)])
async def test_rows_that_commit_late_are_not_missed(
    desk: Desk, clock: ManualClock, overlap_s: float, learned: bool
) -> None:
    """And without the overlap they are."""
    user = await customer(desk)
    watch = EndedWatch(desk.store, desk.feed, clock, overlap_s=overlap_s)
    await watch.look()
    clock.advance(1)
    await watch.look()
    late = await end_at(desk, user, clock.now_us() - 30 * SECOND_US)
    clock.advance(1)
    await watch.look()
    assert (late in desk.ended) == learned


async def test_a_writer_whose_clock_is_ahead_makes_us_miss_nobody_else(desk: Desk, clock: ManualClock) -> None:
    user = await customer(desk)
    await desk.watch.look()
    ahead = await end_at(desk, user, clock.now_us() + 3600 * SECOND_US)
    clock.advance(1)
    await desk.watch.look()
    right = await end_at(desk, user, clock.now_us())
    clock.advance(1)
    await desk.watch.look()
    assert ahead in desk.ended
    assert right in desk.ended


async def test_what_no_overlap_can_find_is_found_when_everything_is_looked_at(desk: Desk, clock: ManualClock) -> None:
    user = await customer(desk)
    await desk.watch.look()
    behind = await end_at(desk, user, clock.now_us() - 600 * SECOND_US)
    clock.advance(1)
    await desk.watch.look()
    assert behind not in desk.ended
    clock.advance(300)
    await desk.watch.look()
    assert behind in desk.ended


async def test_our_own_clock_may_be_set_back(desk: Desk, clock: ManualClock) -> None:
    user, now_us = await customer(desk), clock.now_us()
    await desk.watch.look()
    clock.set_now_us(now_us + 7200 * SECOND_US)
    await desk.watch.look()
    clock.set_now_us(now_us + SECOND_US)
    ended = await end_at(desk, user, now_us + SECOND_US)
    await desk.watch.look()
    assert ended in desk.ended


async def test_a_database_that_was_away_is_read_from_where_it_was_left(
    desk: Desk, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it was away; and the others' news come meanwhile."""
    users = [await customer(desk, f"u{number}@x.example") for number in range(8)]
    gone = (await desk.store.why(users[0].id)).shard
    other = next(user for user in users if desk.store.map.places[user.id % 128].shard != gone)
    await desk.watch.look()
    missed, heard = await end_at(desk, users[0], clock.now_us()), await end_at(desk, other, clock.now_us())
    call = desk.store.databases.call

    async def failing(name: str, work: Callable[[Store], Awaitable[R]]) -> R:
        if name == gone:
            raise Unavailable("away", code="connect_failed")
        return await call(name, work)

    with monkeypatch.context() as patch:
        patch.setattr(desk.store.databases, "call", failing)
        for _ in range(3):
            clock.advance(70)
            await desk.watch.look()
    assert heard in desk.ended
    assert missed not in desk.ended
    await desk.watch.look()
    assert missed in desk.ended


async def test_many_are_read_in_pieces(desk: Desk, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shop.users.auth_jwt._feed._AT_ONCE", 2)
    user = await customer(desk)
    ended = [await end_at(desk, user, clock.now_us() + number // 3) for number in range(11)]
    await desk.watch.look()
    assert all(session in desk.ended for session in ended)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def test_an_app_goes_on_while_users_is_away_and_hears_the_rest_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_following, "EVERY_S", 0.005)
    clock = ManualClock()
    feed, ended = EndedFeed(EndedSessions(clock), clock), EndedSessions(clock)
    processes = Processes([feed], random.Random(0))
    users = cast(Users, processes)
    processes.down = True
    await learn_ended_sessions(users, ended)  # serves without
    following = asyncio.create_task(follow_ended_sessions(users, ended))
    try:
        feed.learn(1, clock.now_us() + SECOND_US)
        await until(lambda: processes.calls > 3)
        assert "1" not in ended
        processes.down = False
        await until(lambda: "1" in ended)
        processes.feeds[:] = [EndedFeed(EndedSessions(clock), clock)]  # it started anew
        processes.feeds[0].learn(2, clock.now_us() + SECOND_US)
        await until(lambda: "2" in ended)
        assert not following.done()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    first = EndedSessions(clock)
    await learn_ended_sessions(users, first)
    assert "2" in first
