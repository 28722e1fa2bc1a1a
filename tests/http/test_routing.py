"""Paths lead to routes segment by segment."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.errors import Invalid
from dougong.http.routing import PathTree


def tree(*routes: str) -> PathTree[str]:
    made: PathTree[str] = PathTree()
    for route in routes:
        verb, path = route.split(" ")
        assert made.add(verb, path, route) is None
    return made


def found(paths: PathTree[str], verb: str, path: bytes) -> tuple[str, tuple[str, ...]] | None:
    match = paths.find(path)
    return None if match is None or verb not in match.verbs else (match.verbs[verb], match.values)


SHOP = tree(
    "GET /v1/orders",
    "POST /v1/orders",
    "GET /v1/orders/{order_id}",
    "POST /v1/orders/{order_id}:cancel",
    "GET /v1/orders/mine",
    "GET /v1/users/{user}/orders/{order}",
    "GET /v1/users/me/wallet",
    "GET /",
)


@pytest.mark.parametrize(
    ("verb", "path", "expected"),
    [
        ("GET", b"/v1/orders", ("GET /v1/orders", ())),
        ("POST", b"/v1/orders", ("POST /v1/orders", ())),
        ("GET", b"/v1/orders/17", ("GET /v1/orders/{order_id}", ("17",))),
        ("GET", b"/v1/orders/mine", ("GET /v1/orders/mine", ())),
        ("POST", b"/v1/orders/17:cancel", ("POST /v1/orders/{order_id}:cancel", ("17",))),
        ("GET", b"/v1/orders/17:other", ("GET /v1/orders/{order_id}", ("17:other",))),
        ("GET", b"/v1/users/u/orders/o", ("GET /v1/users/{user}/orders/{order}", ("u", "o"))),
        ("GET", b"/v1/users/me/wallet", ("GET /v1/users/me/wallet", ())),
        ("GET", b"/v1/users/me/orders/o", ("GET /v1/users/{user}/orders/{order}", ("me", "o"))),
        ("GET", b"/v1/orders/a%2Fb", ("GET /v1/orders/{order_id}", ("a/b",))),
        ("GET", b"/v1/orders/%E6%96%97", ("GET /v1/orders/{order_id}", ("斗",))),
        ("GET", b"/v1/%6Frders", ("GET /v1/orders", ())),
        ("GET", b"/", ("GET /", ())),
        ("GET", b"/v1/orders/", None),
        ("GET", b"//v1/orders", None),
        ("GET", b"/v1", None),
        ("GET", b"", None),
        ("GET", b"v1/orders", None),
        ("GET", b"*", None),
        ("GET", b"/v1/orders/17/x", None),
        ("POST", b"/v1/orders/:cancel", None),
        ("GET", b"/" + b"x/" * 10_000, None),
    ],
)
def test_path_leads_to_route(verb: str, path: bytes, expected: tuple[str, tuple[str, ...]] | None) -> None:
    assert found(SHOP, verb, path) == expected


def test_values_that_a_dead_end_collected_are_forgotten() -> None:
    paths = tree("GET /a/{x}:do/b", "GET /a/{y}/c")
    assert found(paths, "GET", b"/a/1:do/c") == ("GET /a/{y}/c", ("1:do",))


def test_a_path_that_is_not_utf8_is_said_so() -> None:
    with pytest.raises(Invalid) as caught:
        SHOP.find(b"/v1/orders/%ff")
    assert caught.value.code == "malformed_path"


def test_the_same_shape_twice_returns_who_has_it() -> None:
    paths = tree("GET /a/{x}")
    assert paths.add("GET", "/a/{other}", "late") == "GET /a/{x}"
    assert found(paths, "GET", b"/a/1") == ("GET /a/{x}", ("1",))


@pytest.mark.parametrize("template", ["/a/{b}c", "/a/x{b}", "/a//b", "/a/", "/a/{B}", "/a/{b}{c}"])
def test_a_template_that_cannot_be_matched_by_segment_is_refused(template: str) -> None:
    with pytest.raises(TypeError, match="segment"):
        PathTree[str]().add("GET", template, "x")


@given(st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=2))
def test_any_text_survives_the_path(values: list[str]) -> None:
    path = f"/v1/users/{quote(values[0], safe='')}/orders/{quote(values[1], safe='')}".encode()
    expected = ("GET /v1/users/{user}/orders/{order}", tuple(values))
    assert found(SHOP, "GET", path) == expected
