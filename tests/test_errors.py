"""One tree of errors: families, what they become on each transport, and what survives a wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong import errors
from dougong.errors import FAMILIES, Conflict, Error, Internal, Invalid, NotFound, Overloaded, Unavailable, error_from

scalars = st.one_of(st.text(), st.integers(), st.booleans(), st.floats(allow_nan=False))


@pytest.mark.parametrize(
    ("family", "grpc_status", "http_status"),
    [
        # grpc: https://grpc.io/docs/guides/status-codes/ ; written out, so that a change of a class is noticed
        ("invalid", 3, 400),
        ("deadline_exceeded", 4, 504),
        ("not_found", 5, 404),
        ("forbidden", 7, 403),
        ("overloaded", 8, 429),
        ("conflict", 10, 409),
        ("internal", 13, 500),
        ("unavailable", 14, 503),
        ("unauthenticated", 16, 401),
    ],
)
def test_every_family_has_its_status_on_both_transports(family: str, grpc_status: int, http_status: int) -> None:
    kind = FAMILIES[family]
    assert (kind.family, kind.grpc_status, kind.http_status) == (family, grpc_status, http_status)


def test_families_are_told_apart_by_grpc_status() -> None:
    assert len({kind.grpc_status for kind in FAMILIES.values()}) == len(FAMILIES) == 9


def test_all_families_are_public() -> None:
    assert {kind.__name__ for kind in FAMILIES.values()} == set(errors.__all__) - {"Error", "FAMILIES", "error_from"}


def test_an_error_says_code_and_message_and_keeps_its_fields() -> None:
    error = Conflict("2 left of SKU-1, 5 wanted", code="insufficient_stock", sku="SKU-1", left=2)
    assert str(error) == "insufficient_stock: 2 left of SKU-1, 5 wanted"
    assert error.fields == {"sku": "SKU-1", "left": 2}
    assert error.retry_after_s is None
    assert "insufficient_stock" in repr(error)
    assert isinstance(error, Error)


def test_the_family_is_the_code_when_none_is_given() -> None:
    assert NotFound("nothing here").code == "not_found"


def test_equality_is_by_family_code_message_and_fields() -> None:
    assert Invalid("a", code="x", n=1) == Invalid("a", code="x", n=1)
    different = [Invalid("a", code="y", n=1), Invalid("b", code="x", n=1), Invalid("a", code="x", n=2), Invalid("a")]
    assert all(Invalid("a", code="x", n=1) != other for other in different)
    assert Invalid("a", code="x") != NotFound("a", code="x")
    assert Invalid("a") != "invalid: a"


def test_errors_can_be_kept_in_sets() -> None:
    error = Unavailable("gone")
    assert len({error, error, Unavailable("gone", code="other")}) == 2


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    code=st.text(min_size=1),
    message=st.text(),
    fields=st.dictionaries(st.text(), scalars),
    retry_after_s=st.none() | st.floats(0, 3600),
)
def test_what_crossed_a_wire_is_the_error_that_was_sent(
    family: str, code: str, message: str, fields: dict[str, errors.Scalar], retry_after_s: float | None
) -> None:
    error = error_from(family, code, message, fields, retry_after_s)
    assert type(error) is FAMILIES[family]
    assert (error.code, error.message, error.fields, error.retry_after_s) == (code, message, fields, retry_after_s)


def test_field_names_from_a_wire_cannot_pass_for_parameters() -> None:
    error = error_from("overloaded", "queue_full", "full", {"code": "forged", "message": "forged", "self": "x"}, 1.5)
    assert isinstance(error, Overloaded)
    assert (error.code, error.message, error.retry_after_s) == ("queue_full", "full", 1.5)
    assert error.fields["code"] == "forged"


def test_an_unknown_family_is_internal_and_no_crash() -> None:
    error = error_from("from_the_future", "odd", "said a newer version", {})
    assert type(error) is Internal
    assert error.code == "odd"


def test_an_empty_code_becomes_the_family() -> None:
    assert error_from("conflict", "", "changed", {}).code == "conflict"
