"""What becomes of an attempt."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.errors import Invalid, Overloaded
from dougong.jobs import Backoff, Claimed, Outcome
from dougong.jobs.worker.deciding import (
    ERROR_CHARS_MAX,
    RESULT_BYTES_MAX,
    Why,
    ended_by,
    error_text,
    failed,
    result_of,
)

BACKOFF = Backoff(first_s=1.0, max_s=60.0, jitter=0.0)


def claimed(attempt: int = 1) -> Claimed:
    return Claimed(id=7, queue="a", job="j", payload=b"{}", attempt=attempt, enqueued_us=0, due_us=0)


def test_it_comes_again_until_its_retries_are_used_up() -> None:
    ends = [failed(claimed(n), ValueError("x"), 3, BACKOFF, 1_000_000, 0.5) for n in (1, 2, 3, 4)]
    assert [end.outcome for end in ends] == [Outcome.RETRY] * 3 + [Outcome.DEAD]
    assert [end.due_us for end in ends] == [2_000_000, 3_000_000, 5_000_000, None]


def test_invalid_is_dead_at_once() -> None:
    assert failed(claimed(), Invalid("no such order"), 3, BACKOFF, 0, 0.5).outcome is Outcome.DEAD


@pytest.mark.parametrize(("hint_s", "wait_s"), [(30.0, 30), (0.1, 1), (math.nan, 1), (math.inf, 30 * 86_400)])
def test_an_errors_own_hint_makes_the_wait_longer_never_shorter(hint_s: float, wait_s: int) -> None:
    assert failed(claimed(), Overloaded("full", retry_after_s=hint_s), 3, BACKOFF, 0, 0).due_us == wait_s * 1_000_000


@pytest.mark.parametrize(
    ("why", "attempt", "outcome", "text"),
    [
        (Why.CANCELLED, 1, Outcome.CANCELLED, ""),
        (Why.STOPPING, 9, Outcome.RETURNED, ""),
        (Why.TIMED_OUT, 1, Outcome.RETRY, "job_timed_out: took longer than its timeout_s of 5"),
        (Why.TIMED_OUT, 4, Outcome.DEAD, "job_timed_out"),
        (Why.STUCK, 1, Outcome.RETRY, "job_stuck: no heartbeat for 2"),
    ],
)
def test_ended_from_outside(why: Why, attempt: int, outcome: Outcome, text: str) -> None:
    ended = ended_by(why, claimed(attempt), timeout_s=5, heartbeat_s=2, retries=3, backoff=BACKOFF, now_us=0, random=0)
    assert ended is not None
    assert ended.outcome is outcome
    assert text in ended.error


def test_of_a_lost_term_nothing_is_written() -> None:
    assert (
        ended_by(Why.LOST, claimed(), timeout_s=5, heartbeat_s=2, retries=3, backoff=BACKOFF, now_us=0, random=0)
        is None
    )


def test_an_error_says_what_and_where() -> None:
    def inner() -> None:
        raise ValueError("no order 7")

    with pytest.raises(ValueError, match="no order") as caught:
        inner()
    text = error_text(caught.value)
    assert text.startswith("ValueError: no order 7\n")
    assert "in inner: raise ValueError" in text


@given(st.text(st.characters(exclude_categories=()), max_size=5000))
def test_an_error_is_bounded_and_any_database_can_store_it(message: str) -> None:
    text = error_text(ValueError(message))
    assert len(text) <= ERROR_CHARS_MAX
    assert "\0" not in text
    text.encode()


def test_a_result_that_cannot_be_kept_says_why() -> None:
    assert result_of({"a": 1}) == (b'{"a":1}', "")
    assert result_of(None) == (None, "")
    assert "cannot be written as JSON" in result_of(object())[1]
    assert "at most" in result_of("x" * RESULT_BYTES_MAX)[1]
