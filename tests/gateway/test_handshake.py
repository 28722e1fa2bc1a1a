"""The opening handshake: who gets a WebSocket, and what others are told."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.gateway.handshake import HEAD_BYTES_MAX, Refused, accept, end_of_head, read_head

HEADERS = {
    "Host": "shop.example",
    "Upgrade": "websocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def head(line: str = "GET /v1/live HTTP/1.1", headers: Mapping[str, str] = HEADERS, **changed: str | None) -> bytes:
    given_ = {**headers, **{name.replace("_", "-"): value for name, value in changed.items()}}
    lines = [line, *(f"{name}: {value}" for name, value in given_.items() if value is not None)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def refusal(data: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        read_head(data)
    assert caught.value.response.startswith(f"HTTP/1.1 {caught.value.status} ".encode())
    assert caught.value.response.endswith(f"\r\n\r\n{caught.value.reason}\n".encode())
    return caught.value


def test_the_example_of_the_rfc() -> None:
    upgrade = read_head(head(Origin="https://shop.example", Sec_WebSocket_Protocol="chat, superchat"))
    assert (upgrade.path, upgrade.origin, upgrade.protocols) == (
        "/v1/live",
        "https://shop.example",
        ["chat", "superchat"],
    )
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in accept(upgrade)
    answer = accept(upgrade, protocol="chat", headers={"X-Node": "3"})
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert b"\r\nSec-WebSocket-Protocol: chat\r\nX-Node: 3\r\n\r\n" in answer


def test_query_and_repeated_headers() -> None:
    upgrade = read_head(head("GET /live?token=a%2Bb&empty= HTTP/1.1")[:-2] + b"X-A: 1\r\nx-a: 2\r\n\r\n")
    assert (upgrade.path, upgrade.query) == ("/live", {"token": "a+b", "empty": ""})
    assert upgrade.headers["x-a"] == "1, 2"
    assert upgrade.origin is None


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (head("POST / HTTP/1.1"), 405),
        (head("GET / HTTP/1.0"), 505),
        (head("GET / HTTP/2"), 505),
        (head("GET /"), 400),
        (head("GET  / HTTP/1.1"), 400),
        (head("GET http://other/ HTTP/1.1"), 400),
        (head("GET /\x7f HTTP/1.1"), 400),
        (head("hello"), 400),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),  # TLS to a plain port
        (head(Host=None), 400),
        (head()[:-2] + b"Host: two\r\n\r\n", 400),
        (head(Upgrade=None), 426),
        (head(Upgrade="h2c"), 426),
        (head(Connection="close"), 426),
        (head(Sec_WebSocket_Version="8"), 426),
        (head(Sec_WebSocket_Version=None), 426),
        (head(Sec_WebSocket_Key="short"), 400),
        (head(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ"), 400),
        (head()[:-2] + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", 400),
        (head(Sec_WebSocket_Protocol="dougong, a b"), 400),
        (head(Content_Length="5"), 400),
        (head(Transfer_Encoding="chunked"), 400),
        (head()[:-2] + b"no colon\r\n\r\n", 400),
        (head()[:-2] + b"X-A : 1\r\n\r\n", 400),
        (head()[:-2] + b"X-A: 1\r\n folded\r\n\r\n", 400),
        (head()[:-2] + b"X-A: 1\x002\r\n\r\n", 400),
        (head()[:-2] + b"X-A: 1\n2\r\n\r\n", 400),
        (head()[:-2] + b"X: 1\r\n" * 129 + b"\r\n", 431),
        (head(X="a" * 8193), 431),
        (head("GET /" + "a" * 8193 + " HTTP/1.1"), 431),
        (head("GET /?" + "a&" * 40 + " HTTP/1.1"), 400),
    ],
)
def test_what_is_no_handshake_is_refused(data: bytes, status: int) -> None:
    assert refusal(data).status == status


def test_refusals_name_what_would_do() -> None:
    assert refusal(head(Sec_WebSocket_Version="8")).headers["Sec-WebSocket-Version"] == "13"
    assert refusal(head(Upgrade=None)).headers["Upgrade"] == "websocket"
    assert refusal(head("PUT / HTTP/1.1")).headers["Allow"] == "GET"


def test_the_end_is_found_however_the_head_comes() -> None:
    whole = head()
    for cut in range(len(whole)):
        assert end_of_head(whole[:cut]) == -1
        assert end_of_head(whole, searched=cut) == len(whole)
    assert end_of_head(whole + b"\x81\x80") == len(whole)
    with pytest.raises(Refused):
        end_of_head(b"a" * (HEAD_BYTES_MAX + 1))


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_in_good_order(data: bytes) -> None:
    with pytest.raises(Refused):
        read_head(data + b"\r\n\r\n")


@given(st.data())
def test_a_head_with_a_flaw_is_read_or_refused(data: st.DataObject) -> None:
    whole = head()
    at = data.draw(st.integers(0, len(whole) - 5))
    spoilt = whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + 1 :]
    status = 101
    try:
        read_head(spoilt)
    except Refused as refused:
        status = refused.status
    assert status in (101, 400, 405, 426, 431, 505)
