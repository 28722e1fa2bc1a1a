"""Which outcomes are tried again, and after how long."""

from __future__ import annotations

from random import Random

import pytest

from dougong.mesh.retrying import DEFAULT_RETRIES, GRPC_CONDITIONS, Failure, RetryPolicy


def on(*conditions: str, statuses: frozenset[int] = frozenset()) -> RetryPolicy:
    return RetryPolicy(conditions=frozenset(conditions), statuses=statuses)


def test_istios_defaults() -> None:
    assert DEFAULT_RETRIES.attempts == 2
    assert DEFAULT_RETRIES.conditions == {
        "connect-failure",
        "refused-stream",
        "unavailable",
        "cancelled",
        "retriable-status-codes",
    }
    assert DEFAULT_RETRIES.covers(http_status=503)
    assert DEFAULT_RETRIES.covers(grpc_status=14)
    assert DEFAULT_RETRIES.covers(failure=Failure.CONNECT)
    assert not DEFAULT_RETRIES.covers(http_status=500)
    assert not DEFAULT_RETRIES.covers(grpc_status=13)
    assert not DEFAULT_RETRIES.covers(failure=Failure.RESET)
    assert not DEFAULT_RETRIES.covers()


@pytest.mark.parametrize(
    ("condition", "statuses", "failures"),
    [
        ("5xx", {500, 502, 503, 504, 599}, set(Failure)),
        ("gateway-error", {502, 503, 504}, set(Failure)),
        ("reset", set(), set(Failure)),
        ("reset-before-request", set(), {Failure.CONNECT, Failure.RESET_BEFORE_REQUEST}),
        ("connect-failure", set(), {Failure.CONNECT}),
        ("refused-stream", set(), {Failure.REFUSED_STREAM}),
        ("retriable-4xx", {409}, set()),
        ("retriable-headers", set(), set()),
        ("envoy-ratelimited", set(), set()),
    ],
)
def test_conditions_are_envoys(condition: str, statuses: set[int], failures: set[Failure]) -> None:
    policy = on(condition)
    asked = (200, 404, 409, 429, 500, 502, 503, 504, 599)
    assert {status for status in asked if policy.covers(http_status=status)} == statuses
    assert {failure for failure in Failure if policy.covers(failure=failure)} == failures


@pytest.mark.parametrize(("condition", "status"), GRPC_CONDITIONS.items())
def test_grpc_conditions(condition: str, status: int) -> None:
    assert [code for code in range(17) if on(condition).covers(grpc_status=code)] == [status]


def test_statuses_that_are_listed() -> None:
    assert on("retriable-status-codes", statuses=frozenset([429])).covers(http_status=429)
    assert not on("5xx", statuses=frozenset([429])).covers(http_status=429)


def test_waits_grow_to_ten_times_the_base_and_are_spread() -> None:
    policy, random = RetryPolicy(backoff_s=0.1), Random(5)
    for retry, longest in ((1, 0.1), (2, 0.2), (3, 0.4), (4, 0.8), (5, 1.0), (50, 1.0), (10_000, 1.0)):
        waits = [policy.wait_s(retry, random) for _ in range(500)]
        assert 0.0 <= min(waits) < longest * 0.1
        assert longest * 0.9 < max(waits) < longest
