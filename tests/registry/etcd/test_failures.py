"""What each of etcd's answers means for the caller."""

from __future__ import annotations

import pytest

from dougong.errors import Error, Forbidden, Internal, Invalid, Overloaded, Unauthenticated, Unavailable
from dougong.registry.etcd.failures import Failed, Next


@pytest.mark.parametrize(
    ("status", "text", "then", "error", "code"),
    [
        ("UNAVAILABLE", "etcdserver: no leader", Next.ELSEWHERE, Unavailable, "registry_unreachable"),
        ("UNAVAILABLE", "etcdserver: request timed out", Next.ELSEWHERE, Unavailable, "registry_unreachable"),
        ("DEADLINE_EXCEEDED", "", Next.ELSEWHERE, Unavailable, "registry_unreachable"),
        ("UNAUTHENTICATED", "etcdserver: invalid auth token", Next.LOGIN, Unauthenticated, "registry_login"),
        ("INVALID_ARGUMENT", "etcdserver: user name is empty", Next.LOGIN, Unauthenticated, "registry_login"),
        (
            "INVALID_ARGUMENT",
            "etcdserver: authentication failed, invalid user ID or password",
            Next.GIVE_UP,
            Unauthenticated,
            "registry_login",
        ),
        ("PERMISSION_DENIED", "etcdserver: permission denied", Next.GIVE_UP, Forbidden, "registry_forbidden"),
        (
            "RESOURCE_EXHAUSTED",
            "etcdserver: mvcc: database space exceeded",
            Next.GIVE_UP,
            Unavailable,
            "registry_full",
        ),
        ("RESOURCE_EXHAUSTED", "etcdserver: too many requests", Next.GIVE_UP, Overloaded, "registry_busy"),
        ("INVALID_ARGUMENT", "etcdserver: key is not provided", Next.GIVE_UP, Invalid, "registry_refused"),
        ("DATA_LOSS", "etcdserver: corrupt cluster", Next.GIVE_UP, Internal, "registry_failed"),
    ],
)
def test_answers(status: str, text: str, then: Next, error: type[Error], code: str) -> None:
    failed = Failed(status, text, "one:2379")
    told = failed.error()
    assert failed.next is then
    assert (type(told), told.code) == (error, code)


def test_only_what_was_sent_may_have_been_carried_out() -> None:
    assert Failed("UNAVAILABLE", "", "one:1").unknown
    assert not Failed("UNAVAILABLE", "", "one:1", sent=False).unknown
    assert not Failed("UNAUTHENTICATED", "etcdserver: invalid auth token", "one:1").unknown
