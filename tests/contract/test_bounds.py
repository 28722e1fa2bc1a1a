"""Bounds mean the same whichever way a message came: as JSON, where msgspec checks, or as protobuf, where we do."""

# ruff: noqa: RUF012 (a Struct copies an empty list for each object; ruff knows that of msgspec.Struct only)

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta
from tests.contract.samples import Leaf, Line, PlaceOrder

from dougong.contract import Message, codec
from dougong.errors import Invalid


class Item(Message):
    """Bounds one level down."""

    count: Annotated[int, Meta(ge=1, lt=5)]


class Paired(Message):
    """At least one."""

    pair: Annotated[tuple[int, ...], Meta(min_length=1)]


class Bounded(Message):
    """Every bound there is."""

    closed: Annotated[int, Meta(ge=-2, le=2)] = 0
    opened: Annotated[int, Meta(gt=-2, lt=2)] = 0
    even: Annotated[int, Meta(multiple_of=2)] = 0
    ratio: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.5
    text: Annotated[str, Meta(min_length=1, max_length=3, pattern="^[a-z]*$")] = "abc"
    data: Annotated[bytes, Meta(max_length=2)] = b""
    few: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(max_length=2)] = []
    pair: Paired | None = None
    maybe: Annotated[int, Meta(le=3)] | None = None
    longer: Annotated[str, Meta(max_length=2)] | None = None
    table: Annotated[dict[Annotated[str, Meta(max_length=2)], Annotated[int, Meta(ge=0)]], Meta(max_length=2)] = {}
    items: list[Item] = []
    item: Item | None = None
    by_name: dict[str, Item] = {}


small = st.integers(-4, 6)
short = st.text("abZ", max_size=4)
item = st.builds(Item, count=small)
bounded = st.builds(
    Bounded,
    closed=small,
    opened=small,
    even=small,
    ratio=st.sampled_from([-0.1, 0.0, 0.5, 1.0]),
    text=short,
    data=st.binary(max_size=3),
    few=st.lists(small, max_size=3),
    pair=st.none() | st.builds(Paired, pair=st.lists(small, max_size=2).map(tuple)),
    maybe=st.none() | small,
    longer=st.none() | short,
    table=st.dictionaries(short, small, max_size=3),
    items=st.lists(item, max_size=2),
    item=st.none() | item,
    by_name=st.dictionaries(short, item, max_size=2),
)


@given(st.data())
def test_the_same_verdict_as_msgspec(data: st.DataObject) -> None:
    # All fields but a few keep their defaults, so that both verdicts are common.
    drawn = data.draw(bounded)
    names = data.draw(st.sets(st.sampled_from(Bounded.__struct_fields__), max_size=3))
    message = Bounded(**{name: getattr(drawn, name) for name in names})
    try:
        msgspec.json.decode(msgspec.json.encode(message), type=Bounded)
        json_takes_it = True
    except msgspec.ValidationError:
        json_takes_it = False
    if json_takes_it:
        codec(Bounded).validate(message)
    else:
        with pytest.raises(Invalid) as caught:
            codec(Bounded).validate(message)
        assert caught.value.code == "invalid_field"
        assert str(caught.value.fields["field"]) in caught.value.message


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (Bounded(closed=3), "closed must be <= 2, not 3"),
        (Bounded(opened=-2), "opened must be > -2, not -2"),
        (Bounded(even=1), "even must be a multiple of 2, not 1"),
        (Bounded(ratio=math.nan), "ratio must be >= 0.0, not nan"),
        (Bounded(text=""), "text must have at least 1 characters, not 0"),
        (Bounded(text="A"), "text must match '^[a-z]*$'"),
        (Bounded(data=b"123"), "data must have at most 2 bytes, not 3"),
        (Bounded(few=[0, -1]), "few[1] must be >= 0, not -1"),
        (Bounded(few=[0, 1, 2]), "few must have at most 2 entries, not 3"),
        (Bounded(pair=Paired(pair=())), "pair.pair must have at least 1 entries, not 0"),
        (Bounded(maybe=4), "maybe must be <= 3, not 4"),
        (Bounded(table={"abc": 1}), "table key 'abc' must have at most 2 characters, not 3"),
        (Bounded(table={"a": -1}), "table['a'] must be >= 0, not -1"),
        (Bounded(items=[Item(count=1), Item(count=5)]), "items[1].count must be < 5, not 5"),
        (Bounded(item=Item(count=0)), "item.count must be >= 1, not 0"),
        (Bounded(by_name={"x": Item(count=0)}), "by_name['x'].count must be >= 1, not 0"),
    ],
)
def test_the_error_says_where_and_what(message: Bounded, says: str) -> None:
    with pytest.raises(Invalid) as caught:
        codec(Bounded).validate(message)
    assert caught.value.message == says
    assert says.startswith(str(caught.value.fields["field"]))


def test_a_path_through_a_list() -> None:
    order = PlaceOrder(lines=[Line(sku="a", quantity=1), Line(sku="b", quantity=1), Line(sku="c", quantity=0)])
    with pytest.raises(Invalid, match=r"lines\[2\]\.quantity must be >= 1, not 0"):
        codec(PlaceOrder).validate(order)


def test_texts_are_not_quoted_back() -> None:
    with pytest.raises(Invalid) as caught:
        codec(Bounded).validate(Bounded(text="hunter2"))
    assert "hunter2" not in str(caught.value)


def test_without_bounds_there_is_nothing_to_do() -> None:
    assert not codec(Leaf).has_bounds
    assert codec(PlaceOrder).has_bounds


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_json_lets_integers_through_that_nothing_carries(number: int) -> None:
    message: Any = msgspec.json.decode(b'{"text": "", "number": %d}' % number, type=Leaf)
    codec(Leaf).validate(message)
    with pytest.raises(Invalid, match="number must be") as caught:
        codec(Leaf).validate_json(message)
    assert caught.value.fields == {"field": "number"}


def test_the_last_integers_that_fit() -> None:
    for number in (2**63 - 1, -(2**63)):
        codec(Leaf).validate_json(Leaf(text="", number=number))
