"""The rules of sessions against a simple model, and what becomes of them when a rule is missing."""

from __future__ import annotations

import contextlib
import random
import string
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from dougong.errors import Unauthenticated
from shop.users.auth_jwt import (
    RefreshToken,
    Refused,
    Rotated,
    Session,
    SessionRules,
    _session,
    _tokens,
    open_session,
    read_token,
    rotate,
)

RULES = SessionRules(access_s=60, grace_s=10, idle_s=500, absolute_s=2000)
SECOND_US = 1_000_000
USER = 5 * 128 + 77


@dataclass
class Model:
    """What a session is, said as plainly as possible: the tokens it gave out, in order, and when the last one was."""

    created_s: float
    rules: SessionRules = RULES
    tokens: list[RefreshToken] = field(default_factory=list)
    used_s: float = 0.0
    ended: bool = False

    def expects(self, at: int, now_s: float) -> str:
        """What showing the token number `at` comes to."""
        if self.ended:
            return "session_ended"
        if now_s >= min(self.created_s + self.rules.absolute_s, self.used_s + self.rules.idle_s):
            return "session_expired"
        last = len(self.tokens) - 1
        if at == last:
            return "next"
        if at == last - 1 and now_s - self.used_s <= self.rules.grace_s:
            return "repeated"
        return "refresh_token_reused"

    def saw(self, expected: str, got: RefreshToken | None, now_s: float) -> None:
        if expected == "next":
            assert got is not None
            assert got not in self.tokens
            self.tokens.append(got)
            self.used_s = now_s
        elif expected == "repeated":
            assert got == self.tokens[-1]
        elif expected == "refresh_token_reused":
            self.ended = True


class World:
    """The rules with a variable for a database."""

    def __init__(self, seed: int = 0, rules: SessionRules = RULES) -> None:
        self.rules = rules
        self.entropy = random.Random(seed).randbytes
        self.now_s = 1000.0
        self.session: Session
        self.model = Model(self.now_s, rules, used_s=self.now_s)
        opened = open_session(USER, self.now_us, rules, self.entropy)
        self.session = opened.session
        self.model.tokens.append(opened.token)

    @property
    def now_us(self) -> int:
        return round(self.now_s * SECOND_US)

    def show(self, token: RefreshToken) -> Rotated | Refused:
        outcome = rotate(self.session, token, self.now_us, self.rules, self.entropy)
        if outcome.session is not None:
            self.session = outcome.session
        return outcome

    def refresh(self, at: int) -> str:
        """Show a token that was given out, and compare with the model."""
        token = self.model.tokens[at]
        expected = self.model.expects(at, self.now_s)
        outcome = self.show(token)
        got = outcome.error.code if isinstance(outcome, Refused) else "repeated" if outcome.repeated else "next"
        assert got == expected
        self.model.saw(expected, None if isinstance(outcome, Refused) else outcome.token, self.now_s)
        assert bool(self.session.ended_us) == self.model.ended
        if isinstance(outcome, Rotated):
            until_s = outcome.session.access_until_us / SECOND_US
            assert self.now_s < until_s <= max(self.now_s + self.rules.access_s, until_s)
            assert self.now_s + outcome.access_s <= self.model.created_s + self.rules.absolute_s + 1
        return got

    def forge(self, token: RefreshToken) -> str:
        before = self.session
        outcome = self.show(token)
        assert isinstance(outcome, Refused)
        if token.family != self.model.tokens[0].family:
            assert self.session == before  # a stranger changes nothing
        self.model.ended = bool(self.session.ended_us)
        return outcome.error.code

    def accepted(self) -> int:
        """How many of the tokens given out would be answered with a token now."""
        outcomes = [rotate(self.session, token, self.now_us, self.rules, self.entropy) for token in self.model.tokens]
        return sum(isinstance(outcome, Rotated) for outcome in outcomes)


class Sessions(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 1 << 32))
    def open(self, seed: int) -> None:
        self.world = World(seed)

    @rule(back=st.integers(0, 4))
    def refresh(self, back: int) -> None:
        tokens = self.world.model.tokens
        self.world.refresh(max(0, len(tokens) - 1 - back))

    @rule(seconds=st.sampled_from([0.0, 0.001, 1.0, 9.999, 10.0, 10.001, 11.0, 59.0, 499.0, 501.0]))
    def wait(self, seconds: float) -> None:
        self.world.now_s = round(self.world.now_s + seconds, 3)

    @rule(secret=st.binary(min_size=32, max_size=32), family=st.binary(min_size=16, max_size=16))
    def a_stranger(self, secret: bytes, family: bytes) -> None:
        assert self.world.forge(RefreshToken(self.world.session.id, family, secret)) == "refresh_token_invalid"

    @rule()
    def logout(self) -> None:
        world = self.world
        world.session = _session.ended(world.session, world.now_us, world.rules, "logout")
        world.model.ended = True

    @rule()
    def only_one_is_good(self) -> None:
        grace = self.world.now_s - self.world.model.used_s <= RULES.grace_s
        assert self.world.accepted() <= (2 if grace and len(self.world.model.tokens) > 1 else 1)


TestSessions = Sessions.TestCase


def test_a_session_lies_in_the_bucket_of_its_user_and_tells_nothing_by_its_hashes() -> None:
    world = World()
    token, row = world.model.tokens[0], repr(world.session)
    assert world.session.id % 128 == USER % 128
    assert 0 < world.session.id < 1 << 63
    for part in (token.secret, token.family):
        assert part.hex() not in row
    assert token.secret.hex() not in repr(token)


def test_a_lifetime_is_not_stretched_by_use() -> None:
    world = World()
    while world.refresh(len(world.model.tokens) - 1) == "next":
        world.now_s += 400
    assert world.now_s == 1000 + 2000
    assert world.session.access_until_us <= (1000 + 2000) * SECOND_US


@given(st.binary(min_size=8, max_size=8), st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32))
def test_a_token_is_read_as_it_was_written(number: bytes, family: bytes, secret: bytes) -> None:
    token = RefreshToken(int.from_bytes(number, "big") >> 1, family, secret)
    assert read_token(token.written()) == token


@given(st.text(max_size=200) | st.text("ABCabc-_019=.", min_size=79, max_size=79).map(lambda text: "rt1." + text[4:]))
def test_anything_else_is_refused_alike(text: str) -> None:
    with contextlib.suppress(Unauthenticated):
        assert read_token(text).written() == text


def test_a_token_has_one_spelling() -> None:
    text = World().model.tokens[0].written()
    for other in (text + "=", text + "A", text[:-1], text.upper(), " " + text, text + "\n", text.replace("rt1", "rt2")):
        with pytest.raises(Unauthenticated):
            read_token(other)
    read: set[tuple[bytes, bytes]] = set()
    letters = string.ascii_letters + string.digits + "-_"
    for letter in letters:  # the last one holds bits that stand for nothing: 16 letters are tokens, each another
        with contextlib.suppress(Unauthenticated):
            token = read_token(text[:-1] + letter)
            assert (token.family, token.secret) not in read
            read.add((token.family, token.secret))
    assert len(read) == 16


def check_strangers() -> None:
    """Who does not have a token gets none, with whatever guess, and ends nobody's session."""
    world = World()
    family = world.model.tokens[0].family
    assert world.forge(RefreshToken(world.session.id, bytes(16), bytes(32))) == "refresh_token_invalid"
    assert world.forge(RefreshToken(world.session.id, family, bytes(32))) == "refresh_token_reused"


def check_copies() -> None:
    """A thief and the owner refresh in turn, a minute apart: the second use of any token ends both."""
    world = World()
    stolen = world.model.tokens[0]
    assert isinstance(world.show(stolen), Rotated)
    world.now_s += 60
    assert isinstance(world.show(stolen), Refused)
    assert world.session.ended_us
    assert world.accepted() == 0


def check_lost_answers() -> None:
    """Within the grace the same answer, and no second lineage."""
    world = World()
    assert world.refresh(0) == "next"
    world.now_s += 9
    assert world.refresh(0) == "repeated"
    world.now_s += 2
    assert world.refresh(0) == "refresh_token_reused"


CHECKS = (check_strangers, check_copies, check_lost_answers)


@pytest.mark.parametrize("check", CHECKS)
def test_what_is_promised(check: Callable[[], None]) -> None:
    check()


def _without_compare(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_session, "matches", lambda part, stored: True)


def _without_reuse(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_session, "ended", lambda session, *_: session)


def _without_grace_bound(patch: pytest.MonkeyPatch) -> None:
    endless = msgspec.structs.replace(RULES, grace_s=1e9)
    patch.setattr(World.__init__, "__defaults__", (0, endless))


def _without_family(patch: pytest.MonkeyPatch) -> None:
    matches = _tokens.matches
    patch.setattr(_session, "matches", lambda part, stored: len(part) == 16 or matches(part, stored))


@pytest.mark.parametrize(
    ("without", "check"),
    [
        (_without_compare, check_strangers),
        (_without_family, check_strangers),
        (_without_reuse, check_copies),
        (_without_grace_bound, check_copies),
    ],
)
def test_each_safeguard_is_missed(
    monkeypatch: pytest.MonkeyPatch, without: Callable[[pytest.MonkeyPatch], None], check: Callable[[], None]
) -> None:
    without(monkeypatch)
    with pytest.raises(AssertionError):
        check()
