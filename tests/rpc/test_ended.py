"""Sessions that ended: their tokens are not believed, and they are forgotten once those have expired."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.clock import ManualClock
from dougong.errors import Invalid, Unauthenticated
from dougong.rpc import Caller, EndedSessions, JwtAuthenticator, JwtIssuer

SECOND_US = 1_000_000


def test_a_token_of_an_ended_session_is_refused_also_when_it_was_believed_before() -> None:
    clock = ManualClock()
    issuer = JwtIssuer(JwtIssuer.new_private_key(), "k", issuer="shop", audience="shop", ttl_s=60, clock=clock)
    ended = EndedSessions(clock)
    authenticate = JwtAuthenticator(issuer.public_keys, "shop", "shop", ended=ended, clock=clock)
    token, other = issuer.issue("u-1", session="s-1"), issuer.issue("u-1", session="s-2")
    assert authenticate(f"Bearer {token}") == Caller("u-1", session="s-1")
    ended.end("s-1", clock.now_us() + 60 * SECOND_US)
    for _ in range(2):
        with pytest.raises(Unauthenticated, match="log in again") as caught:
            authenticate(f"Bearer {token}")
        assert caught.value.code == "token_ended"
    assert authenticate(f"Bearer {other}").session == "s-2"
    assert authenticate(f"Bearer {issuer.issue('u-1')}").session == ""


def test_a_session_without_a_name_cannot_be_ended() -> None:
    with pytest.raises(Invalid) as caught:
        EndedSessions(ManualClock()).end("", 1)
    assert caught.value.code == "session_missing"


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 20), st.integers(0, 5))))
def test_each_is_held_until_its_last_time_and_then_dropped(steps: list[tuple[str, int, int]]) -> None:
    clock = ManualClock()
    ended = EndedSessions(clock)
    until: dict[str, int] = {}
    for session, seconds, passed in steps:
        at = clock.now_us() + seconds * SECOND_US
        ended.end(session, at)
        until[session] = max(at, until.get(session, 0))
        clock.advance(passed)
        assert all(name in ended for name, last in until.items() if last >= clock.now_us())
    clock.advance(100)
    ended.end("last", clock.now_us() + 1)
    assert len(ended) == 1
