"""Whose request it is, when proxies are in between and when somebody only says so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.http.desk import Nothing

from dougong.contract import Message, Service, rpc
from dougong.errors import Invalid
from dougong.http import HttpFront
from dougong.http.address import Proxies
from dougong.http.asgi import Event, Scope
from dougong.rpc import current_origin

OURS = Proxies(["10.0.0.0/8", "fd00::/8"])


def forwarded(*values: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"shop"), *((b"x-forwarded-for", value.encode("latin-1")) for value in values)]


@pytest.mark.parametrize(
    ("peer", "values", "client"),
    [
        ("10.0.0.1", ("203.0.113.9",), "203.0.113.9"),
        ("10.0.0.1", ("198.51.100.1, 203.0.113.9",), "203.0.113.9"),  # the left one is what the client claims
        ("10.0.0.1", ("198.51.100.1", "203.0.113.9, 10.0.0.2"), "203.0.113.9"),  # two headers are one list
        ("10.0.0.1", ("10.9.9.9",), "10.9.9.9"),
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", ("unknown",), "10.0.0.1"),
        ("10.0.0.1", ("203.0.113.9, nonsense",), "10.0.0.1"),
        ("10.0.0.1", ("203.0.113.9:4711",), "203.0.113.9"),
        ("10.0.0.1", ("[2001:db8::1]:4711",), "2001:db8::1"),
        ("::ffff:10.0.0.1", ("::ffff:203.0.113.9",), "203.0.113.9"),
        ("fd00::1", ("2001:db8::1",), "2001:db8::1"),
        ("203.0.113.9", ("198.51.100.1",), "203.0.113.9"),  # nobody of ours: hearsay
    ],
)
def test_who_it_is(peer: str, values: tuple[str, ...], client: str) -> None:
    assert OURS.client(peer, forwarded(*values)) == client
    assert Proxies().client(peer, forwarded(*values)) == peer


@given(st.lists(st.text(st.characters(max_codepoint=255), max_size=60), max_size=4))
def test_no_header_makes_it_fail_or_another_than_the_last_hop(values: list[str]) -> None:
    assert OURS.client("10.0.0.1", forwarded(*values, "203.0.113.9")) == "203.0.113.9"
    assert OURS.client("10.0.0.1", forwarded(*values))


def test_a_proxy_that_is_no_network_is_refused() -> None:
    with pytest.raises(Invalid, match=r"10\.0\.0\.0/8"):
        Proxies(["proxy.example"])


class Where(Message):
    address: str


class Mirror(Service, package="test.v1"):
    @rpc(http="GET /v1/where", public=True)
    async def where(self, request: Nothing) -> Where:
        return Where(address=current_origin().address)


@pytest.mark.parametrize(("trusted", "seen"), [((), b"10.0.0.1"), (("10.0.0.0/8",), b"203.0.113.9")])
async def test_methods_learn_it_from_the_front(trusted: tuple[str, ...], seen: bytes) -> None:
    sent: list[Event] = []

    async def receive() -> Event:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(event: Event) -> None:
        sent.append(event)

    scope: Scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/where",
        "query_string": b"",
        "headers": forwarded("203.0.113.9"),
        "client": ("10.0.0.1", 4711),
    }
    await HttpFront([(Mirror, Mirror())], trusted_proxies=trusted)(scope, receive, send)
    assert seen in bytes(sent[-1]["body"])  # type: ignore[call-overload]
