"""Baggage as the W3C has it, and colours that survive every hop."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.mesh.baggage import BAGGAGE_MAX, MEMBERS_MAX, Member, merge_baggage, parse_baggage, write_baggage
from dougong.mesh.colour import COLOUR_HEADER, Colouring


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("", {}),
        ("a=1", {"a": Member("1")}),
        (" a = 1 , b=2\t", {"a": Member("1"), "b": Member("2")}),
        ("a=1;p=q; r ,b=", {"a": Member("1", ("p=q", "r")), "b": Member("")}),
        ("a=%41%20%E2%82%AC", {"a": Member("A €")}),
        ("a=%FF", {"a": Member("\ufffd")}),
        ("a=x=y", {"a": Member("x=y")}),
        ("a=1,b=2,a=3", {"b": Member("2"), "a": Member("3")}),
        # dropped, each for itself
        ("a,b=2", {"b": Member("2")}),
        ("=1,b=2", {"b": Member("2")}),
        ("a b=1,b=2", {"b": Member("2")}),
        ('a="1",b=2', {"b": Member("2")}),
        ("a=1 2,b=2", {"b": Member("2")}),
        ("a=é,b=2", {"b": Member("2")}),
        ("a=%4,b=2", {"b": Member("2")}),
        ("a=%zz,b=2", {"b": Member("2")}),
        ("a=1;p q,b=2", {"b": Member("2")}),
        ("a=1\n,b=2", {"b": Member("2")}),
        (",,b=2,,", {"b": Member("2")}),
    ],
)
def test_reading(text: str, members: dict[str, Member]) -> None:
    assert parse_baggage(text) == members


def test_writing_escapes_what_must_be() -> None:
    assert write_baggage({"a": Member('x ,;"\\%€', ("p=q",)), "not a key": Member("1")}) == (
        "a=x%20%2C%3B%22%5C%25%E2%82%AC;p=q"
    )


KEYS = st.from_regex(r"[-a-z0-9!#$.]{1,8}", fullmatch=True)


@given(st.dictionaries(KEYS, st.builds(Member, st.text(st.characters(exclude_categories=["Cs"]), max_size=20))))
def test_what_is_written_can_be_read(members: dict[str, Member]) -> None:
    assert parse_baggage(write_baggage(members)) == members


def test_no_more_than_the_bounds_is_read_or_written() -> None:
    many = {f"k{index}": Member("v") for index in range(500)}
    written = write_baggage(many)
    assert list(parse_baggage(written)) == list(many)[:MEMBERS_MAX]
    assert len(parse_baggage(",".join(f"k{index}=v" for index in range(500)))) == MEMBERS_MAX
    large = {f"k{index}": Member("v" * 1000) for index in range(20)}
    written = write_baggage(large)
    assert BAGGAGE_MAX - 1100 < len(written) <= BAGGAGE_MAX
    assert parse_baggage(f"{written},late={'x' * 300}") == {key: large[key] for key in list(large)[:8]}
    assert parse_baggage("a=" + "v" * BAGGAGE_MAX) == {}


@given(st.integers(1, 300), st.integers(1, 60))
def test_a_cut_never_halves_a_member(count: int, length: int) -> None:
    text = ",".join(f"k{index}={'v' * length}" for index in range(count))
    read = parse_baggage(text)
    assert list(read.values()) == [Member("v" * length)] * len(read)
    kept = ",".join(f"{key}={member.value}" for key, member in read.items())
    assert text.startswith(kept)
    rest = text[len(kept) :].lstrip(",").partition(",")[0]
    assert not rest or len(read) == MEMBERS_MAX or len(f"{kept},{rest}") > BAGGAGE_MAX


@pytest.mark.fuzz
@given(st.text(st.sampled_from('ab=;, %4é\t\n"\\'), max_size=60) | st.text(max_size=60))
def test_no_text_does_harm(text: str) -> None:
    read = parse_baggage(text)
    assert parse_baggage(write_baggage(read)) == read


def test_ours_goes_first_and_before_what_was_inherited() -> None:
    merged = merge_baggage({"a": Member("old"), "b": Member("2")}, {"c": Member("3"), "a": Member("new")})
    assert list(merged.items()) == [("c", Member("3")), ("a", Member("new")), ("b", Member("2"))]


def hop(colouring: Colouring, headers: dict[str, str], sent: dict[str, str] | None = None) -> dict[str, str]:
    """A service that gets a call with these headers and makes one of its own."""
    return colouring.onward(colouring.received(headers), sent or {})


def test_a_colour_survives_every_hop() -> None:
    """A service in the middle may not know the header: the baggage carries it."""
    knows, does_not = Colouring(["x-tenant"]), Colouring()
    headers = {COLOUR_HEADER: "canary", "x-tenant": "blue", "x-other": "stays behind"}
    for service in (knows, does_not, knows, does_not, knows):
        headers = hop(service, headers)
    assert headers[COLOUR_HEADER] == "canary"
    assert headers["x-tenant"] == "blue"
    assert "x-other" not in headers
    assert parse_baggage(headers["baggage"]) == {COLOUR_HEADER: Member("canary"), "x-tenant": Member("blue")}


def test_without_baggage_a_colour_is_lost_at_the_second_hop() -> None:
    """Ablation: what nobody copies nobody gets."""
    colouring = Colouring()
    headers = hop(colouring, {COLOUR_HEADER: "canary"})
    forgetful = {name: value for name, value in headers.items() if name not in {"baggage", COLOUR_HEADER}}
    assert COLOUR_HEADER not in hop(colouring, forgetful)


def test_a_header_goes_before_the_baggages_word_for_it() -> None:
    colouring = Colouring()
    coming = {COLOUR_HEADER: "green", "baggage": f"{COLOUR_HEADER}=blue,other=1"}
    going = hop(colouring, coming)
    assert going[COLOUR_HEADER] == "green"
    assert parse_baggage(going["baggage"]) == {COLOUR_HEADER: Member("green"), "other": Member("1")}
    own = hop(colouring, coming, {COLOUR_HEADER: "red"})  # the service decides otherwise
    assert own[COLOUR_HEADER] == "red"
    assert parse_baggage(own["baggage"])[COLOUR_HEADER] == Member("red")
    baggage = hop(colouring, coming, {"baggage": "other=2"})
    assert parse_baggage(baggage["baggage"]) == {COLOUR_HEADER: Member("green"), "other": Member("2")}


@pytest.mark.parametrize("name", ["authorization", "Cookie", ":path", "grpc-timeout", "traceparent", "baggage", "host"])
def test_what_is_secret_or_of_one_hop_is_never_carried(name: str) -> None:
    colouring = Colouring([name])
    assert colouring.keys == (COLOUR_HEADER,)
    assert hop(colouring, {name: "secret"}) == {}


@pytest.mark.parametrize("value", ["", "a\nb", "é", "x" * 257])
def test_a_value_no_header_can_hold_makes_none(value: str) -> None:
    colouring = Colouring()
    assert COLOUR_HEADER not in hop(colouring, {COLOUR_HEADER: value})
    assert COLOUR_HEADER not in hop(colouring, {"baggage": write_baggage({COLOUR_HEADER: Member(value)})})


def test_a_colour_is_never_what_the_bounds_cut() -> None:
    crowd = ",".join(f"k{index}=v" for index in range(MEMBERS_MAX - 1)) + f",{COLOUR_HEADER}=canary"
    going = hop(Colouring(["x-tenant"]), {"baggage": crowd, "x-tenant": "blue"})
    read = parse_baggage(going["baggage"])
    assert len(read) == MEMBERS_MAX
    assert read[COLOUR_HEADER] == Member("canary")
    assert read["x-tenant"] == Member("blue")
