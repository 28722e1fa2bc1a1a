"""Where calls go: first match, weights, header operations, mirrors."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.mesh.routing import (
    Call,
    CallMatch,
    Decision,
    Destination,
    HeaderOps,
    MatchKind,
    Mirror,
    Routes,
    Rule,
    Target,
    TextMatch,
    apply_headers,
    mirrors_of,
)


def to(host: str, *matches: CallMatch) -> Rule:
    return Rule(targets=(Target(Destination(host)),), matches=matches, name=host)


def exact(value: str) -> TextMatch:
    return TextMatch(MatchKind.EXACT, value)


def goes(routes: Routes, call: Call, seed: int = 1) -> str:
    decision = routes.route(call, Random(seed))
    return "nowhere" if decision is None or decision.destination is None else decision.destination.host


def holds(match: CallMatch, call: Call) -> bool:
    return goes(Routes([to("here", match)]), call) == "here"


PLACE = Call("/shop.v1.Orders/Place", {"x-user": "ada", "x-empty": ""}, authority="orders", port=8080)


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        (CallMatch(uri=exact("/shop.v1.Orders/Place")), True),
        (CallMatch(uri=exact("/shop.v1.orders/place")), False),
        (CallMatch(uri=TextMatch(MatchKind.EXACT, "/shop.v1.orders/place", ignore_case=True)), True),
        (CallMatch(uri=TextMatch(MatchKind.PREFIX, "/SHOP.", ignore_case=True)), True),
        (CallMatch(uri=TextMatch(MatchKind.PREFIX, "/shop.v1.Orders/")), True),
        (CallMatch(uri=TextMatch(MatchKind.PREFIX, "/shop.v2.")), False),
        (CallMatch(uri=TextMatch(MatchKind.REGEX, r"/shop\.v\d+\.Orders/(Place|Cancel)")), True),
        (CallMatch(uri=TextMatch(MatchKind.REGEX, "/shop")), False),  # of the whole path
        (CallMatch(authority=exact("orders")), True),
        (CallMatch(authority=exact("users")), False),
        (CallMatch(method=exact("POST")), True),
        (CallMatch(method=exact("GET")), False),
        (CallMatch(scheme=exact("http")), True),
        (CallMatch(scheme=exact("https")), False),
        (CallMatch(port=8080), True),
        (CallMatch(port=8081), False),
        (CallMatch(headers=(("x-user", exact("ada")),)), True),
        (CallMatch(headers=(("x-user", exact("bob")),)), False),
        (CallMatch(headers=(("x-none", exact("")),)), False),
        (CallMatch(headers=(("x-empty", exact("")),)), True),
        (CallMatch(headers=(("x-empty", TextMatch(MatchKind.PRESENT)),)), True),
        (CallMatch(headers=(("x-none", TextMatch(MatchKind.PRESENT)),)), False),
        (CallMatch(without_headers=(("x-user", exact("bob")),)), True),
        (CallMatch(without_headers=(("x-user", exact("ada")),)), False),
        (CallMatch(without_headers=(("x-none", exact("ada")),)), True),
        (CallMatch(without_headers=(("x-none", TextMatch(MatchKind.REGEX, ".*")),)), False),  # missing counts as empty
        (CallMatch(without_headers=(("x-none", TextMatch(MatchKind.PRESENT)),)), True),
        (CallMatch(without_headers=(("x-user", TextMatch(MatchKind.PRESENT)),)), False),
        (CallMatch(port=8080, headers=(("x-user", exact("ada")),), uri=TextMatch(MatchKind.PREFIX, "/")), True),
        (CallMatch(port=8080, headers=(("x-user", exact("bob")),), uri=TextMatch(MatchKind.PREFIX, "/")), False),
    ],
)
def test_conditions(match: CallMatch, expected: bool) -> None:
    assert holds(match, PLACE) is expected


def test_the_first_rule_that_matches_decides_and_any_of_its_matches_is_enough() -> None:
    routes = Routes(
        [
            to("canary", CallMatch(headers=(("x-colour", exact("canary")),)), CallMatch(port=1)),
            to("never", CallMatch(headers=(("x-colour", exact("canary")),))),
            to("rest"),
            to("unreached"),
        ]
    )
    assert goes(routes, Call("/", {"x-colour": "canary"})) == "canary"
    assert goes(routes, Call("/", port=1)) == "canary"
    assert goes(routes, Call("/")) == "rest"


CONDITIONS = st.lists(st.sampled_from([CallMatch(port=port) for port in range(1, 5)]), max_size=3)


@given(st.lists(CONDITIONS, max_size=6), st.integers(0, 5))
def test_it_is_the_first_of_any_rules(rules: list[list[CallMatch]], port: int) -> None:
    routes = Routes([to(str(index), *matches) for index, matches in enumerate(rules)])
    expected = (str(index) for index, matches in enumerate(rules) if not matches or CallMatch(port=port) in matches)
    assert goes(routes, Call("/", port=port)) == next(expected, "nowhere")


def test_no_rule_that_matches_is_no_way() -> None:
    assert Routes([]).route(Call("/"), Random(1)) is None
    assert Routes([to("a", CallMatch(port=1))]).route(Call("/"), Random(1)) is None


@given(st.lists(st.integers(0, 9), min_size=2, max_size=5).filter(any), st.integers())
def test_weights_share_calls(weights: list[int], seed: int) -> None:
    targets = tuple(Target(Destination(str(index)), weight) for index, weight in enumerate(weights))
    routes, random = Routes([Rule(targets=targets)]), Random(seed)
    picks: Counter[int] = Counter()
    for _ in range(2000):
        decision = routes.route(Call("/"), random)
        assert decision is not None
        assert decision.destination is not None
        picks[int(decision.destination.host)] += 1
    total = sum(weights)
    for index, weight in enumerate(weights):
        expected = 2000 * weight / total
        assert abs(picks[index] - expected) <= 6 * max(expected * (1 - weight / total), 0) ** 0.5  # six sigma
        if weight == 0:
            assert picks[index] == 0


def test_a_lone_destination_gets_everything_whatever_its_weight() -> None:
    assert goes(Routes([Rule(targets=(Target(Destination("only"), 0),))]), Call("/")) == "only"


def test_the_same_way_is_the_same_decision() -> None:
    routes = Routes([to("a")])
    assert routes.route(Call("/x"), Random(1)) is routes.route(Call("/y"), Random(2))


def test_headers_are_removed_then_set_then_added() -> None:
    ops = HeaderOps(set=(("a", "1"),), add=(("b", "2"), ("c", "3")), remove=("b", "d"))
    assert apply_headers({"b": "x", "c": "y", "d": "z"}, [ops]) == {"a": "1", "b": "2", "c": "y,3"}


def test_who_has_the_last_word_about_headers() -> None:
    """Istio puts a lone destination's operations behind the rule's; among several, Envoy does theirs first."""
    own, rule = HeaderOps(set=(("a", "own"),)), HeaderOps(set=(("a", "rule"),))
    lone = Routes([Rule(targets=(Target(Destination("x"), request=own),), request=rule)]).route(Call("/"), Random(1))
    both = tuple(Target(Destination(name), 1, request=own, response=own) for name in "xy")
    several = Routes([Rule(targets=both, request=rule, response=rule)]).route(Call("/"), Random(1))
    assert lone is not None
    assert several is not None
    assert apply_headers({}, lone.request) == {"a": "own"}
    assert apply_headers({}, several.request) == apply_headers({}, several.response) == {"a": "rule"}


def test_mirrors_are_drawn_each_for_itself() -> None:
    decision = Decision(
        Destination("a"),
        mirrors=(Mirror(Destination("all")), Mirror(Destination("half"), 50.0), Mirror(Destination("no"), 0)),
    )
    random, copies = Random(3), Counter[str]()
    for _ in range(1000):
        copies.update(destination.host for destination in mirrors_of(decision, random))
    assert copies["all"] == 1000
    assert 430 < copies["half"] < 570
    assert copies["no"] == 0
    assert mirrors_of(Decision(Destination("a")), random) == ()
