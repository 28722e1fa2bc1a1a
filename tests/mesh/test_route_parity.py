"""Our routing against a real Envoy's, given the rules as Istio translates them: the same way for every call."""

from __future__ import annotations

import random as stdlib_random
from random import Random

import pytest
from tests.mesh.envoy_routes import RoutingEnvoy

from dougong.mesh.faults import grpc_status_of
from dougong.mesh.retrying import GRPC_CONDITIONS, RETRY_CONDITIONS, Failure, RetryPolicy
from dougong.mesh.routing import (
    Call,
    CallMatch,
    Destination,
    DirectAnswer,
    HeaderOps,
    MatchKind,
    Routes,
    Rule,
    Target,
    TextMatch,
    apply_headers,
)

pytestmark = pytest.mark.xdist_group("envoy")

PATHS = ("/", "/shop.v1.Orders/Place", "/shop.v1.orders/place", "/shop.v2.Orders/Place", "/shop.v1.Users/Get")
VALUES = ("", "a", "A", "ab", "ada", "canary", "a,b", "a=1;b=2", "10", "x y")
NAMES = ("x-a", "x-b", "x-c")
PATTERNS = (
    *(
        "a",
        "a+",
        "a|ab",
        "(a|b)*",
        "[a-c]+",
        "[^a]",
        ".*",
        ".+",
        r"\d+",
        r"\w*",
        r"a\x62",
        "(?i)ADA",
        "(?i:a)b",
        "a{2,}",
    ),
    *("^a$", "a?b?", "(canary|ada)", "c.n.*y", r"(.*;)?b=2(;.*)?", r".*,b", "x[ ]y", r"\D*", "[[]", "a{0,1}b{1}", "()"),
)
PATH_PATTERNS = (r"/shop\.v\d\.Orders/.*", "/shop.*", "(?i)/shop[.]v1[.]orders/place", ".*Place", "/", "/shop")


def text(random: Random, values: tuple[str, ...], patterns: tuple[str, ...]) -> TextMatch:
    kind = random.choice((MatchKind.EXACT, MatchKind.PREFIX, MatchKind.REGEX))
    if kind is MatchKind.REGEX:
        return TextMatch(kind, random.choice(patterns))
    value = random.choice(values)
    if kind is MatchKind.PREFIX:
        value = value[: random.randint(1, max(1, len(value)))] or "a"
    return TextMatch(kind, value)


def header(random: Random) -> tuple[str, TextMatch]:
    name = random.choice(NAMES)
    return name, TextMatch(MatchKind.PRESENT) if random.random() < 0.2 else text(random, VALUES[1:], PATTERNS)


def condition(random: Random) -> CallMatch:
    uri = None
    if random.random() < 0.4:
        found = text(random, PATHS, PATH_PATTERNS)
        uri = TextMatch(found.kind, found.value, found.kind is not MatchKind.REGEX and random.random() < 0.3)
    return CallMatch(
        uri=uri,
        method=TextMatch(MatchKind.EXACT, random.choice(("GET", "POST"))) if random.random() < 0.2 else None,
        authority=text(random, ("orders", "users"), ("orders", "u.*")) if random.random() < 0.2 else None,
        headers=tuple(header(random) for _ in range(random.choice((0, 0, 1, 1, 2)))),
        without_headers=tuple(header(random) for _ in range(random.choice((0, 0, 0, 1)))),
    )


def rules(random: Random) -> list[Rule]:
    made = [
        Rule(matches=tuple(condition(random) for _ in range(random.randint(1, 2))), name=str(index))
        for index in range(random.randint(1, 6))
    ]
    return [*made, Rule(name="rest")] if random.random() < 0.5 else made


def call(random: Random) -> Call:
    headers = {name: random.choice(VALUES) for name in NAMES if random.random() < 0.6}
    return Call(
        random.choice(PATHS),
        headers,
        authority=random.choice(("orders", "users")),
        method=random.choice(("GET", "POST")),
    )


async def test_the_same_rule_for_every_call() -> None:
    random = Random(stdlib_random.getrandbits(32))  # pytest-randomly tells how to replay it
    tables = [rules(random) for _ in range(60)]
    chosen: set[str] = set()
    async with RoutingEnvoy(tables) as envoy:
        for index, table in enumerate(tables):
            calls = [call(random) for _ in range(25)]
            routes = Routes(table)
            ours = [found.rule if (found := routes.route(each, random)) is not None else "nowhere" for each in calls]
            theirs = [answer["rule"] for answer in await envoy.ask(index, calls)]
            assert list(zip(ours, calls, strict=True)) == list(zip(theirs, calls, strict=True)), table
            chosen |= set(ours)
    assert len(chosen) > 3  # the calls did spread


async def test_every_pattern_means_what_it_means_to_re2() -> None:
    tables = [
        [
            Rule(matches=(CallMatch(headers=(("x-a", TextMatch(MatchKind.REGEX, pattern)),)),), name="yes"),
            Rule(name="no"),
        ]
        for pattern in PATTERNS
    ]
    texts = [*VALUES, "aa", "abab", "b=2", "b", "Ada", "ADA", "aB", "AB", "[", "0", "_"]
    calls = [Call("/", {"x-a": each}, authority="orders") for each in texts]
    async with RoutingEnvoy(tables) as envoy:
        for index, table in enumerate(tables):
            routes = Routes(table)
            ours = {each.headers["x-a"]: getattr(routes.route(each, Random(1)), "rule", "") for each in calls}
            theirs = [answer["rule"] for answer in await envoy.ask(index, calls)]
            assert ours == dict(zip(texts, theirs, strict=True)), PATTERNS[index]


def operations(random: Random) -> HeaderOps | None:
    if random.random() < 0.25:
        return None
    names = ("x-a", "x-b", "x-c", "x-d")

    def pairs() -> tuple[tuple[str, str], ...]:
        return tuple((name, str(random.randint(0, 9))) for name in names if random.random() < 0.3)

    return HeaderOps(pairs(), pairs(), tuple(name for name in names if random.random() < 0.2))


async def test_the_same_headers_arrive() -> None:
    random = Random(stdlib_random.getrandbits(32))  # pytest-randomly tells how to replay it
    tables: list[list[Rule]] = []
    for index in range(60):
        alone = index % 2 == 0
        # among several, both get the same operations, so that it does not matter who is drawn
        own = operations(random)
        targets = tuple(Target(Destination("echo"), 1, request=own) for _ in range(1 if alone else 2))
        tables.append([Rule(targets=targets, request=operations(random), name=str(index))])
    async with RoutingEnvoy(tables) as envoy:
        for index, table in enumerate(tables):
            sent = Call(
                "/", {name: "sent" for name in ("x-a", "x-b", "x-c") if random.random() < 0.6}, authority="orders"
            )
            decision = Routes(table).route(sent, random)
            assert decision is not None
            ours = apply_headers(sent.headers, decision.request)
            (arrived,) = await envoy.ask(index, [sent])
            assert ours == {name: value for name, value in arrived.items() if name in {"x-a", "x-b", "x-c", "x-d"}}, (
                table
            )


async def test_an_rpc_sees_the_same_status_when_http_answers_it() -> None:
    statuses = (200, 301, 400, 401, 403, 404, 409, 429, 500, 501, 502, 503, 504)
    tables = [[Rule(answer=DirectAnswer(status))] for status in statuses]
    call = Call("/shop.v1.Orders/Place", {"content-type": "application/grpc"}, authority="orders")
    async with RoutingEnvoy(tables) as envoy:
        theirs = [int((await envoy.ask(index, [call]))[0]["grpc"]) for index in range(len(statuses))]
    assert dict(zip(statuses, theirs, strict=True)) == {status: grpc_status_of(status) for status in statuses}


ANSWERS = (
    *("200", "400", "404", "409", "429", "500", "501", "502", "503", "504", "close"),
    *(f"grpc {status}" for status in (1, 4, 5, 8, 13, 14)),
)


def tried_again(policy: RetryPolicy, answer: str) -> bool:
    kind, _, grpc = answer.partition(" ")
    if kind == "close":
        return policy.covers(failure=Failure.RESET)
    return policy.covers(grpc_status=int(grpc)) if grpc else policy.covers(http_status=int(kind))


async def test_the_same_outcomes_are_tried_again() -> None:
    """Each condition alone, but `retriable-status-codes`, which wants its codes."""
    conditions = sorted(RETRY_CONDITIONS - {"http3-post-connect-failure"})
    policies = [
        RetryPolicy(1, conditions=frozenset([name]), statuses=frozenset([429]), backoff_s=0.001) for name in conditions
    ]
    tables = [
        [Rule(targets=(Target(Destination(cluster)),), retries=policy)]
        for cluster in ("echo", "closed")
        for policy in policies
    ]
    async with RoutingEnvoy(tables) as envoy:
        for index, policy in enumerate(policies):
            calls = [
                Call("/", {"x-id": f"{index} {answer}", "x-answer": answer}, authority="orders") for answer in ANSWERS
            ]
            await envoy.ask(index, calls)
            theirs = {answer: envoy.arrived[f"{index} {answer}"] == 2 for answer in ANSWERS}
            assert theirs == {answer: tried_again(policy, answer) for answer in ANSWERS}, conditions[index]
            before = await envoy.retries_of("closed")
            await envoy.ask(len(policies) + index, [Call("/", authority="orders")])
            again = await envoy.retries_of("closed") - before
            assert again == policy.covers(failure=Failure.CONNECT), conditions[index]
    assert set(GRPC_CONDITIONS) <= set(conditions)
