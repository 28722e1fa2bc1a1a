"""Limits on guessing: GCRA against a bucket that leaks, and who is and is not shut out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.shop.user_desk import Desk, user_desk

from dougong.clock import ManualClock
from dougong.errors import Error, Overloaded, Unauthenticated
from dougong.rpc import Origin, call_scope
from shop.users import ChangePassword, Login, Register, Token
from shop.users._passwords import Passwords
from shop.users.auth_jwt import Allowance, LoginLimits, LoginThrottle, Rate, network_of

LIMITS = LoginLimits(address=Rate(30, 2.0), account=Rate(10, 30.0), known=Rate(10, 30.0), keys_max=1000)
HOME, AWAY, EVIL = "198.51.100.7", "198.51.100.8", "203.0.113.66"
ANN = Register(email="ann@x.example", password="correct horse", name="Ann")


class Leaking:
    """The naive one: a bucket per key that holds `burst`, and leaks one each `every_s`."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.level: dict[str, tuple[float, float]] = {}

    def now(self, key: str, now: float) -> float:
        level, since = self.level.get(key, (0.0, now))
        return max(0.0, level - (now - since) / self.rate.every_s)

    def takes(self, key: str, now: float) -> bool:
        level = self.now(key, now)
        if level + 1 > self.rate.burst:
            return False
        self.level[key] = level + 1, now
        return True

    def refund(self, key: str, now: float) -> None:
        self.level[key] = self.now(key, now) - 1, now


@given(
    st.integers(1, 5),
    st.sampled_from([0.5, 1.0, 4.0]),
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 12)), max_size=60),
)
def test_it_allows_what_a_leaking_bucket_allows(burst: int, every_s: float, steps: list[tuple[str, int]]) -> None:
    rate, now = Rate(burst, every_s), 100.0
    allowance, naive = Allowance(rate, 10), Leaking(rate)
    for key, quarters in steps:
        now += quarters / 4
        wait_s = allowance.wait_s(key, now)
        assert (wait_s == 0) == naive.takes(key, now)
        if wait_s == 0:
            allowance.charge(key, now)
        else:
            assert allowance.wait_s(key, now + wait_s) == 0
            assert allowance.wait_s(key, now + wait_s - 0.25) > 0


@given(st.lists(st.integers(0, 20), max_size=100))
def test_of_many_keys_it_remembers_the_last(keys: list[int]) -> None:
    allowance = Allowance(Rate(1, 1000.0), 5)
    for key in keys:
        allowance.charge(str(key), 0.0)
        assert len(allowance) <= 5
        assert allowance.wait_s(str(key), 0.0) > 0


def test_what_is_given_back_can_be_taken_again() -> None:
    allowance = Allowance(Rate(2, 10.0), 5)
    for _ in range(100):
        allowance.charge("a", 0.0)
        allowance.refund("a")
    allowance.charge("a", 0.0)
    allowance.charge("a", 0.0)
    assert allowance.wait_s("a", 0.0) == 10.0
    allowance.refund("nobody")


def test_an_ipv6_customer_is_one_however_many_addresses_it_has() -> None:
    assert network_of("2001:db8:1:2::1") == network_of("2001:db8:1:2:ffff::9") != network_of("2001:db8:1:3::1")
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1") != network_of("192.0.2.2")
    assert network_of("") == network_of("' OR 1=1") == ""


def refused(throttle: LoginThrottle, account: str, address: str, now: float) -> bool:
    try:
        throttle.charge(account, address, now)
    except Overloaded as error:
        return error.code == "login_throttled" and (error.retry_after_s or 0) >= 1
    return False


def test_a_stranger_never_uses_up_what_the_owner_has_at_home() -> None:
    throttle = LoginThrottle(LIMITS)
    throttle.succeeded(throttle.charge("ann", HOME, 0.0), 0.0)
    tried = sum(not refused(throttle, "ann", f"203.0.113.{n % 250}", n * 0.01) for n in range(1000))
    assert tried == 10  # of all strangers together
    assert refused(throttle, "ann", AWAY, 10.0)
    assert not refused(throttle, "ann", HOME, 10.0)
    assert sum(not refused(throttle, "bob", f"203.0.113.{n}", 10.0) for n in range(20)) == 10


def test_one_address_may_not_try_many_accounts() -> None:
    throttle = LoginThrottle(LIMITS)
    assert sum(not refused(throttle, f"user-{n}", EVIL, 0.0) for n in range(1000)) == 30
    assert sum(not refused(throttle, f"user-{n}", EVIL, 60.0) for n in range(1000)) == 30
    assert not refused(throttle, "user-1", AWAY, 60.0)


def test_a_refusal_takes_nothing() -> None:
    throttle = LoginThrottle(LIMITS)
    for _ in range(500):
        refused(throttle, "ann", EVIL, 0.0)
    assert not refused(throttle, "ann", EVIL, 31.0)


async def tried(desk: Desk, email: str, password: str, address: str) -> Token | Error:
    with call_scope(origin=Origin(address)):
        try:
            return await desk.users.login(Login(email=email, password=password))
        except Error as error:
            return error


async def guesses(desk: Desk, monkeypatch: pytest.MonkeyPatch, how_many: int) -> int:
    """So many at once from one address; at how many passwords was looked?"""
    looked = 0
    verify = Passwords.verify

    async def counted(self: Passwords, stored: str | None, password: str, *, known: bool = False) -> bool:
        nonlocal looked
        looked += 1
        return await verify(self, stored, password, known=known)

    monkeypatch.setattr(Passwords, "verify", counted)
    answers = await asyncio.gather(*(tried(desk, ANN.email, f"guess {n}", EVIL) for n in range(how_many)))
    assert {answer.code for answer in answers if isinstance(answer, Error)} <= {
        "bad_credentials",
        "login_throttled",
        "login_overloaded",
    }
    assert all(isinstance(answer, Error) for answer in answers)
    return looked


async def test_a_thousand_guesses_and_the_owner_logs_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    async with user_desk(tmp_path, clock=clock, limits=LIMITS) as desk:
        await desk.users.register(ANN)
        assert isinstance(await tried(desk, ANN.email, ANN.password, HOME), Token)
        assert await guesses(desk, monkeypatch, 1000) == 10
        assert isinstance(await tried(desk, ANN.email, ANN.password, HOME), Token)
        away = await tried(desk, ANN.email, ANN.password, AWAY)
        assert isinstance(away, Overloaded)
        clock.advance(float(away.retry_after_s or 0))
        assert isinstance(await tried(desk, ANN.email, ANN.password, AWAY), Token)


async def test_charged_only_afterwards_all_guesses_at_once_get_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What charging before the password is looked at is for."""
    charge = LoginThrottle.charge

    def late(self: LoginThrottle, account: str, address: str, now: float) -> Any:
        taken = charge(self, account, address, now)
        self.refund(taken)

        def take() -> None:
            for allowance, key in taken.parts:
                allowance.charge(key, now)

        asyncio.get_running_loop().call_later(0.2, take)
        return taken

    monkeypatch.setattr(LoginThrottle, "charge", late)
    async with user_desk(tmp_path, clock=ManualClock(), limits=LIMITS) as desk:
        await desk.users.register(ANN)
        assert await guesses(desk, monkeypatch, 60) > 10


async def test_no_account_is_treated_like_a_wrong_password(tmp_path: Path) -> None:
    async with user_desk(tmp_path, clock=ManualClock(), limits=LIMITS) as desk:
        await desk.users.register(ANN)
        told = []
        for email in (ANN.email, "nobody@x.example"):
            answers = [await tried(desk, email, "wrong", f"192.0.2.{n}") for n in range(12)]
            told.append([(type(answer), str(answer), getattr(answer, "fields", {})) for answer in answers])
        assert told[0] == told[1]
        assert [kind for kind, _, _ in told[0]] == [Unauthenticated] * 10 + [Overloaded] * 2


async def test_a_full_line_costs_nobody_a_try(tmp_path: Path) -> None:
    async with user_desk(tmp_path, clock=ManualClock(), limits=LIMITS) as desk:
        await desk.users.register(ANN)
        desk.passwords._waiting_max = 0  # the line is as full as it can be
        for _ in range(50):
            answer = await tried(desk, ANN.email, ANN.password, AWAY)
            assert isinstance(answer, Overloaded)
            assert answer.code == "login_overloaded"
        desk.passwords._waiting_max = 64
        assert isinstance(await tried(desk, ANN.email, ANN.password, AWAY), Token)


async def test_a_flood_from_everywhere_leaves_room_for_those_we_know(tmp_path: Path) -> None:
    """A thousand addresses, each allowed to guess: the line for argon2 is full, but not for the owner at home."""
    limits = LoginLimits(address=Rate(30, 2.0), account=Rate(10_000, 30.0))
    async with user_desk(tmp_path, clock=ManualClock(), limits=limits) as desk:
        await desk.users.register(ANN)
        assert isinstance(await tried(desk, ANN.email, ANN.password, HOME), Token)
        flood = [
            asyncio.create_task(tried(desk, ANN.email, "guess", f"192.0.{n // 250}.{n % 250}")) for n in range(500)
        ]
        while not any(task.done() for task in flood):  # refused, because the line is full
            await asyncio.sleep(0)
        home, away = await asyncio.gather(
            tried(desk, ANN.email, ANN.password, HOME), tried(desk, ANN.email, ANN.password, AWAY)
        )
        assert isinstance(home, Token)
        assert isinstance(away, Overloaded)
        await asyncio.gather(*flood)


async def test_a_stolen_access_token_does_not_help_to_guess_the_password(tmp_path: Path) -> None:
    async with user_desk(tmp_path, clock=ManualClock(), limits=LIMITS) as desk:
        profile = await desk.users.register(ANN)
        codes = []
        for n in range(12):
            change = ChangePassword(user_id=profile.user_id, old_password=f"guess {n}", new_password="12345678")
            with call_scope(origin=Origin(EVIL)), pytest.raises(Error) as caught:
                await desk.users.change_password(change)
            codes.append(caught.value.code)
        assert codes == ["wrong_password"] * 10 + ["login_throttled"] * 2


@pytest.mark.parametrize(
    "text", ["'--@x.example", "a'OR'1'='1@x.example", "x;DROPTABLEusers@x.example", "\\'@x.example"]
)
async def test_words_of_sql_are_words(tmp_path: Path, text: str) -> None:
    async with user_desk(tmp_path) as desk:
        await desk.users.register(ANN)
        answer = await tried(desk, text, "' OR '1'='1", HOME)
        assert isinstance(answer, Unauthenticated)
        assert isinstance(await tried(desk, ANN.email, ANN.password, HOME), Token)
