"""Sessions in their databases: many refresh at once, calls break off, databases are gone, buckets move."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from tests.shop.test_session_rules import RULES, Model
from tests.shop.user_desk import Desk, user_desk

from dougong.clock import ManualClock
from dougong.errors import Conflict, Error, Forbidden, Invalid, NotFound, Unauthenticated, Unavailable
from dougong.rpc import Caller, JwtAuthenticator, Origin, call_scope
from dougong.shard import Layout, Mover, MoveSettings, verify
from shop.users import (
    ChangePassword,
    EndSessions,
    ListSessions,
    Login,
    LogOut,
    LogOutEverywhere,
    Register,
)
from shop.users.auth_jwt import Rotated, Session, SessionRules, read_token, rotate
from shop.users.user_core import User, Wallet

ANN = Register(email="ann@x.example", password="correct horse", name="Ann")
EMPTY = Wallet(0, "EUR", 1000, deposited=1000)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest_asyncio.fixture
async def desk(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Desk]:
    async with user_desk(tmp_path, clock=clock, rules=RULES) as made:
        yield made


async def customer(desk: Desk, email: str = "ann@x.example") -> User:
    return await desk.gateway.register(email, "Ann", "a hash", EMPTY, role="customer")


async def opened(desk: Desk, user: User) -> str:
    return (await desk.sessions.open(user)).token.written()


async def row_of(desk: Desk, written: str) -> Session:
    session_id = read_token(written).session_id
    session = await desk.sessions._sessions.get(session_id)
    assert session is not None
    return session


async def shown(desk: Desk, written: str) -> str:
    """The next token, or why there is none."""
    try:
        return (await desk.auth.refresh(written)).refresh_token
    except Unauthenticated as refused:
        return refused.code


async def good(desk: Desk, tokens: set[str]) -> list[str]:
    """Which of them would be answered with a token."""
    found = []
    for written in tokens:
        session = await row_of(desk, written)
        outcome = rotate(session, read_token(written), desk.clock.now_us(), RULES, random.Random(0).randbytes)
        if isinstance(outcome, Rotated):
            found.append(written)
    return found


@pytest.mark.parametrize("seed", range(4))
async def test_any_order_of_events_is_as_the_model_says(desk: Desk, clock: ManualClock, seed: int) -> None:
    rng = random.Random(seed)
    users = [await customer(desk, f"u{number}@x.example") for number in range(4)]
    models: dict[int, tuple[User, Model]] = {}
    for step in range(150):
        now_s = clock.now_us() / 1e6
        action = rng.random()
        if action < 0.15 or not models:
            user = rng.choice(users)
            rotated = await desk.sessions.open(user)
            models[rotated.session.id] = user, Model(now_s, used_s=now_s, tokens=[rotated.token])
        elif action < 0.75:
            _, model = rng.choice(list(models.values()))
            at = max(0, len(model.tokens) - 1 - rng.choice([0, 0, 0, 0, 1, 1, 2]))
            expected = model.expects(at, now_s)
            answer = await shown(desk, model.tokens[at].written())
            got = read_token(answer) if answer.startswith("rt1.") else None
            assert expected == ("repeated" if got in model.tokens else "next") if got else expected == answer, step
            model.saw(expected, got, now_s)
        elif action < 0.8:
            session_id, (user, model) = rng.choice(list(models.items()))
            alive = model.expects(len(model.tokens) - 1, now_s) == "next"
            assert await desk.sessions.end(user.id, "logout", only=session_id) == alive
            model.ended = model.ended or alive
        else:
            clock.advance(rng.choice([0.5, 5.0, 11.0, 40.0, 300.0]))
        if step % 30 == 0:
            for user in users:
                listed = {session.id for session in await desk.sessions.living(user.id)}
                now_s = clock.now_us() / 1e6
                assert listed == {
                    session_id
                    for session_id, (whose, model) in models.items()
                    if whose is user and model.expects(len(model.tokens) - 1, now_s) == "next"
                }
    for session_id, (_, model) in models.items():
        if model.ended:
            assert str(session_id) in desk.ended or clock.now_us() / 1e6 > model.used_s + RULES.access_s


@pytest.mark.parametrize("processes", [1, 2])
async def test_of_many_who_show_one_token_at_once_one_line_goes_on(
    fresh_url: Callable[[], str], clock: ManualClock, processes: int
) -> None:
    layout = Layout("users", fresh_url(), {f"db-{number}": fresh_url() for number in range(2)})
    async with (
        user_desk(layout, clock=clock, rules=RULES) as one,
        user_desk(layout, clock=clock, rules=RULES) as two,
    ):
        desks = [one, two][:processes]
        user = await customer(one)
        for seed in range(15):
            rng = random.Random(seed)
            first = await opened(one, user)
            seen, current = {first}, first
            for _ in range(3):
                crowd = [shown(rng.choice(desks), current) for _ in range(rng.randint(2, 8))]
                answers = set(await asyncio.gather(*crowd))
                assert len(answers) == 1, f"seed {seed}"
                (current,) = answers
                assert current not in seen
                seen.add(current)
            clock.advance(RULES.grace_s + 1)
            assert await good(one, seen) == [current]
            assert await shown(rng.choice(desks), first) == "refresh_token_reused"
            assert await good(one, seen) == []
            await one.sessions.end(user.id, "logout_all")


async def test_a_race_of_a_thief_and_the_owner_ends_with_nobody_inside(desk: Desk, clock: ManualClock) -> None:
    """Both refresh in their own time, each with what it was answered last."""
    user = await customer(desk)
    for seed in range(20):
        rng = random.Random(seed)
        held = [await opened(desk, user)] * 2
        for _ in range(100):
            clock.advance(rng.uniform(10.5, 60.0))
            who = rng.randrange(2)
            held[who] = await shown(desk, held[who])
            if held[who] == "refresh_token_reused":
                break
        else:
            pytest.fail(f"seed {seed}: nobody noticed")
        assert await shown(desk, held[1 - who]) == "session_ended"


async def test_whoever_breaks_off_can_ask_again(desk: Desk, clock: ManualClock) -> None:
    """A call that is cancelled at any point, and made again: one line, whatever became of the first."""
    current, user = "", await customer(desk)
    current = await opened(desk, user)
    for turns in range(40):
        clock.advance(RULES.grace_s + 1)
        call = asyncio.create_task(desk.auth.refresh(current))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        following = await shown(desk, current)
        assert following.startswith("rt1."), f"after {turns} turns: {following}"
        assert await good(desk, {following}) == [following]
        current = following


async def test_a_copy_that_is_used_ends_the_session_and_its_access_tokens(desk: Desk, clock: ManualClock) -> None:
    user = await customer(desk)
    first = await desk.auth.refresh(await opened(desk, user))
    authenticate = JwtAuthenticator(desk.issuer.public_keys, "shop", "shop", ended=desk.ended, clock=clock)
    second = await desk.auth.refresh(first.refresh_token)
    bearer = f"Bearer {second.access_token}"
    assert authenticate(bearer) == Caller(str(user.id), ("customer",), session=str(second.session_id))
    clock.advance(RULES.grace_s + 1)
    assert await shown(desk, first.refresh_token) == "refresh_token_reused"
    with pytest.raises(Unauthenticated, match="ended"):
        authenticate(bearer)
    assert (await row_of(desk, second.refresh_token)).ended_by == "reuse"
    assert await shown(desk, second.refresh_token) == "session_ended"


async def test_of_too_many_sessions_the_idlest_makes_room(tmp_path: Path, clock: ManualClock) -> None:
    rules = SessionRules(per_user_max=3)
    async with user_desk(tmp_path, clock=clock, rules=rules) as desk:
        user = await customer(desk)
        held = []
        for _ in range(3):
            held.append(await opened(desk, user))
            clock.advance(1)
        held[0] = await shown(desk, held[0])
        clock.advance(1)
        await opened(desk, user)
        assert await shown(desk, held[1]) == "session_ended"
        assert (await row_of(desk, held[1])).ended_by == "too_many"
        assert (await shown(desk, held[0])).startswith("rt1.")
        assert len(await desk.sessions.living(user.id)) == 3


async def test_who_was_logging_in_while_the_password_changed_does_not_get_in(desk: Desk) -> None:
    profile = await desk.users.register(ANN)
    before = await desk.gateway.get(int(profile.user_id))
    assert before is not None
    change = ChangePassword(user_id=profile.user_id, old_password=ANN.password, new_password="battery staple")
    await desk.users.change_password(change)
    with pytest.raises(Unauthenticated):  # whose password was looked at before
        await desk.sessions.open(before)
    with pytest.raises(Conflict, match="somebody else"):
        await desk.sessions.change_password(before, "a hash", keep=None)
    with pytest.raises(Unauthenticated):
        await desk.users.login(Login(email=ANN.email, password=ANN.password))
    await desk.users.login(Login(email=ANN.email, password="battery staple"))


async def test_everybody_ends_the_own_sessions_only(desk: Desk) -> None:
    profile = await desk.users.register(ANN)
    bob = await customer(desk, "bob@x.example")
    theirs = await opened(desk, bob)
    one, two, three = [await desk.users.login(Login(email=ANN.email, password=ANN.password)) for _ in range(3)]
    with call_scope(origin=Origin(session=one.session_id)):
        listed = await desk.users.list_sessions(ListSessions(user_id=profile.user_id))
        assert {item.session_id for item in listed.items} == {one.session_id, two.session_id, three.session_id}
        assert [item.session_id for item in listed.items if item.current] == [one.session_id]
        foreign = LogOut(user_id=profile.user_id, session_id=str(read_token(theirs).session_id))
        assert (await desk.users.log_out(foreign)).sessions == 0
        assert (await desk.users.log_out(LogOut(user_id=profile.user_id))).sessions == 1
        assert (await desk.users.log_out(LogOut(user_id=profile.user_id))).sessions == 0
        assert (await desk.users.log_out(LogOut(user_id=profile.user_id, session_id=two.session_id))).sessions == 1
    with pytest.raises(Invalid, match="names no session"):
        await desk.users.log_out(LogOut(user_id=profile.user_id))
    for odd in ("-1", "1; DROP TABLE sessions", "٣"):
        with pytest.raises(NotFound):
            await desk.users.log_out(LogOut(user_id=profile.user_id, session_id=odd))
    assert (await desk.users.end_sessions(EndSessions(user_id=profile.user_id, session_id="1"))).sessions == 0
    assert (await desk.users.log_out_everywhere(LogOutEverywhere(user_id=profile.user_id))).sessions == 1
    assert await shown(desk, three.refresh_token) == "session_ended"
    assert (await shown(desk, theirs)).startswith("rt1.")


async def test_another_password_keeps_the_session_that_asks(desk: Desk) -> None:
    profile = await desk.users.register(ANN)
    mine, other = [await desk.users.login(Login(email=ANN.email, password=ANN.password)) for _ in range(2)]
    with call_scope(origin=Origin(session=mine.session_id)):
        wrong = ChangePassword(user_id=profile.user_id, old_password="wrong", new_password="battery staple")
        with pytest.raises(Forbidden):
            await desk.users.change_password(wrong)
        right = ChangePassword(user_id=profile.user_id, old_password=ANN.password, new_password="battery staple")
        assert (await desk.users.change_password(right)).sessions == 1
    assert await shown(desk, other.refresh_token) == "session_ended"
    assert (await shown(desk, mine.refresh_token)).startswith("rt1.")


async def test_a_role_that_changed_is_in_the_next_token(desk: Desk, clock: ManualClock) -> None:
    user = await customer(desk)
    token = await opened(desk, user)
    await desk.store.store_of(user.id).write(
        lambda tx: tx.execute("UPDATE users SET role = 'operator' WHERE id = ?", (user.id,))
    )
    grant = await desk.auth.refresh(token)
    authenticate = JwtAuthenticator(desk.issuer.public_keys, "shop", "shop", clock=clock)
    assert authenticate(f"Bearer {grant.access_token}").roles == ("operator",)


async def test_rows_that_are_over_go_in_small_pieces(desk: Desk, clock: ManualClock) -> None:
    users = [await customer(desk, f"u{number}@x.example") for number in range(8)]
    kept = []
    for user in users:
        for _ in range(5):
            await opened(desk, user)
        await desk.sessions.end(user.id, "logout_all")
        await opened(desk, user)
    assert await desk.sessions.purge(3) == 0
    clock.advance(RULES.idle_s + 1)
    kept = [await opened(desk, user) for user in users]
    removed = []
    while count := await desk.sessions.purge(3):
        removed.append(count)
    assert sum(removed) == 8  # which nobody used; those that ended are still told of
    assert max(removed) <= 3 * 4
    clock.advance(RULES.kept_s)
    kept = [await shown(desk, token) for token in kept]
    assert kept == ["session_expired"] * 8
    total = 0
    while count := await desk.sessions.purge(3):
        total += count
    assert total == 8 * 6


async def test_a_database_that_is_gone_says_so_and_concerns_its_own_users(desk: Desk) -> None:
    users = [await customer(desk, f"u{number}@x.example") for number in range(12)]
    tokens = {user.id: await opened(desk, user) for user in users}
    await desk.store.databases.call("db-2", lambda store: store.close())
    for user in users:
        if user.id % 4 == 2:
            for call in (
                desk.sessions.open(user),
                desk.auth.refresh(tokens[user.id]),
                desk.sessions.end(user.id, "logout"),
                desk.sessions.living(user.id),
                desk.auth.login(user.email, "x", ""),
            ):
                with pytest.raises(Unavailable):
                    await call
        else:
            assert (await shown(desk, tokens[user.id])).startswith("rt1.")
    with pytest.raises(Error):
        await desk.sessions.purge(10)


async def test_sessions_move_with_their_bucket(fresh_url: Callable[[], str], clock: ManualClock) -> None:
    layout = Layout("users", fresh_url(), {f"db-{number}": fresh_url() for number in range(2)})
    async with user_desk(layout, clock=clock, rules=RULES) as desk:
        user = await customer(desk)
        first, second = await opened(desk, user), await opened(desk, user)
        await desk.sessions.end(user.id, "logout", only=read_token(second).session_id)
        source = (await desk.store.why(user.id)).shard
        target = next(name for name in desk.store.databases.names if name != source)
        async with asyncio.timeout(60):
            mover = Mover(desk.store, settings=MoveSettings())
            moving = asyncio.create_task(mover.move(user.id % 128, target, complete=True))
            while not moving.done():
                clock.advance(0.05)
                await asyncio.sleep(0.01)
            await moving
        assert (await desk.store.why(user.id)).shard == target
        assert (await shown(desk, first)).startswith("rt1.")
        assert await shown(desk, second) == "session_ended"
        assert [session.id for session in await desk.sessions.living(user.id)] == [read_token(first).session_id]
        async with user_desk(layout, clock=clock, rules=RULES) as beside:
            await beside.watch.look()
            assert str(read_token(second).session_id) in beside.ended
        assert await verify(desk.store) == []
