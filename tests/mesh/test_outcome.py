"""What happened to a call, as HTTP status."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.mesh import CONNECT_FAILED, OK, RESET, TIMEOUT, of_grpc, of_http
from dougong.mesh.outcome import Origin
from dougong.mesh.policy import Mode

BY_NAME = {
    "OK": 200,
    "UNKNOWN": 500,
    "INTERNAL": 500,
    "DATA_LOSS": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
    "RESOURCE_EXHAUSTED": 429,
    "ABORTED": 409,
    "CANCELLED": 499,
    "ALREADY_EXISTS": 409,
    "FAILED_PRECONDITION": 400,
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "OUT_OF_RANGE": 400,
    "PERMISSION_DENIED": 403,
    "UNAUTHENTICATED": 401,
}


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: code.name)
def test_each_grpc_status_has_its_http_status(code: grpc.StatusCode) -> None:
    number = code.value[0]
    assert of_grpc(number, in_trailers=False).status == BY_NAME[code.name]
    assert of_grpc(number, Mode.ENHANCED).status == BY_NAME[code.name]


@given(st.integers(0, 16))
def test_in_parity_trailers_say_nothing(code: int) -> None:
    assert of_grpc(code, Mode.PARITY) is OK


@given(st.integers().filter(lambda code: not 0 <= code <= 16))
def test_a_code_that_grpc_does_not_know_is_an_error(code: int) -> None:
    assert of_grpc(code, in_trailers=False).status == 500


@given(st.integers(100, 599))
def test_an_answer_is_shared_and_the_hosts_word(status: int) -> None:
    assert of_http(status) is of_http(status)
    assert of_http(status).status == status
    assert not of_http(status).local


def test_what_is_no_answer_is_our_word() -> None:
    assert [(outcome.status, outcome.local, outcome.origin) for outcome in (CONNECT_FAILED, RESET, TIMEOUT)] == [
        (503, True, Origin.CONNECT_FAILED),
        (503, True, Origin.RESET),
        (504, True, Origin.TIMEOUT),
    ]
    assert of_http(700).status == 700
