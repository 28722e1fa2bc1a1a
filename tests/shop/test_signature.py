"""Who may tell us that something was paid: judged on bytes alone."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.errors import Unauthenticated
from shop.orders._signature import TOLERANCE_S, check_signature

NOW = 1_800_000_000
BODY = b'{"id":"evt_1"}'


def signed(body: bytes = BODY, secret: str = "hush", at: int = NOW) -> str:
    return f"t={at},v1={hmac.new(secret.encode(), b'%d.' % at + body, hashlib.sha256).hexdigest()}"


@pytest.mark.parametrize("age_s", [0, TOLERANCE_S, -TOLERANCE_S])
def test_what_the_provider_signed_just_now_is_right(age_s: int) -> None:
    check_signature(signed(at=NOW - age_s), BODY, ["hush"], NOW)


def test_while_a_secret_changes_both_are_right() -> None:
    check_signature(signed(secret="old"), BODY, ["new", "old"], NOW)
    check_signature(signed(secret="other") + "," + signed().partition(",")[2], BODY, ["hush"], NOW)


@pytest.mark.parametrize("age_s", [TOLERANCE_S + 1, -TOLERANCE_S - 1, 10**8])
def test_an_old_one_is_worth_nothing(age_s: int) -> None:
    with pytest.raises(Unauthenticated) as refused:
        check_signature(signed(at=NOW - age_s), BODY, ["hush"], NOW)
    assert refused.value.code == "stale_signature"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "t=,v1=",
        signed(secret="guess"),
        signed(body=BODY + b" "),
        signed().upper(),
        signed().replace("v1", "v0"),
        signed().partition(",")[0],
        signed().partition(",")[2],
        signed().replace(f"t={NOW}", f"t={NOW - 1}"),
        "t=-5,v1=00",
        "t=٣,v1=00",
        signed() + "," * 1000,
        ",".join(["v1=00"] * 9) + "," + signed(),
    ],
)
def test_anything_else_is_wrong(header: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        check_signature(header, BODY, ["hush"], NOW)
    assert refused.value.code == "bad_signature"


def test_without_a_secret_nobody_is_right() -> None:
    with pytest.raises(Unauthenticated):
        check_signature(signed(secret=""), BODY, [], NOW)


@pytest.mark.fuzz
@given(st.text(max_size=200), st.binary(max_size=50))
def test_no_header_is_right_by_chance_or_breaks_anything(header: str, body: bytes) -> None:
    with pytest.raises(Unauthenticated):
        check_signature(header, body, ["hush"], NOW)
