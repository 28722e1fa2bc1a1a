"""Messages to bytes and back: what goes in comes out, and what is wrong comes out as Invalid with a path."""

# ruff: noqa: RUF012 (a Struct copies an empty list for each object; ruff knows that of msgspec.Struct only)

from __future__ import annotations

import functools
import operator
import types
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contract.samples import INT64, TEXT, Colour, Everything, Leaf, Node, PlaceOrder, everything

from dougong.contract import Message, codec
from dougong.contract._shape import MAX_ITEMS
from dougong.errors import Invalid


class Typed(Message):
    """One field of each kind that can be wrong."""

    number: int = 1
    text: str = "x"
    ratio: float = 1.5
    data: bytes = b"x"
    flag: bool = True
    colour: Colour = Colour.RED
    leaf: Leaf | None = None
    numbers: list[int] = []
    texts: tuple[str, ...] = ()
    table: dict[str, int] = {}
    leaves: list[Leaf] = []


class Numbers(Message):
    """Any number of them."""

    numbers: list[int] = []


class Empty(Message):
    """Nothing in it."""


class Holder(Message):
    """Required fields that proto3 itself does not require."""

    empty: Empty
    colour: Colour


class Older(Message):
    """What somebody sends who does not know our newer fields, or leaves out what has a default."""

    text: str = ""


class Newer(Message):
    """The same message, a release later."""

    text: str = ""
    limit: int = 20
    colour: Colour = Colour.DEEP_BLUE
    note: str | None = None
    leaf: Leaf = Leaf(text="none")


@given(everything)
def test_what_goes_in_comes_out(message: Everything) -> None:
    wire = codec(Everything)
    again = wire.decode(wire.encode(message))
    assert again == message
    assert again.one_enum is message.one_enum  # not just an equal str
    exact = functools.partial(msgspec.msgpack.encode, order="sorted")  # tells -0.0 from 0.0 and True from 1
    assert exact(again) == exact(message)


_SCALARS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, INT64),
    (str, TEXT),
    (bool, st.booleans()),
    (bytes, st.binary(max_size=9)),
    (Colour, st.sampled_from(Colour)),
    (Leaf, st.builds(Leaf, text=TEXT)),
]
_FORMS: list[Any] = [
    (lambda kind: kind, lambda one: one),
    (lambda kind: operator.or_(kind, None), lambda one: st.none() | one),
    (lambda kind: types.GenericAlias(list, kind), lambda one: st.lists(one, max_size=3)),
    (lambda kind: types.GenericAlias(tuple, (kind, ...)), lambda one: st.lists(one, max_size=3).map(tuple)),
    (lambda kind: types.GenericAlias(dict, (str, kind)), lambda one: st.dictionaries(TEXT, one, max_size=3)),
]


@given(st.data(), st.lists(st.tuples(st.sampled_from(_FORMS), st.sampled_from(_SCALARS)), max_size=6))
def test_any_declarable_message_goes_through(data: st.DataObject, fields: list[Any]) -> None:
    annotations = {f"f{i}": form(kind) for i, ((form, _), (kind, _)) in enumerate(fields)}
    made: Any = types.new_class("Made", (Message,), exec_body=lambda ns: ns.update(__annotations__=annotations))
    message = made(**{f"f{i}": data.draw(many(one)) for i, ((_, many), (_, one)) in enumerate(fields)})
    assert codec(made).decode(codec(made).encode(message)) == message


def test_absent_fields_read_as_their_defaults() -> None:
    assert codec(Newer).decode(codec(Older).encode(Older(text="hi"))) == Newer(text="hi")


def test_zero_is_told_from_absent_where_the_default_is_not_zero() -> None:
    message = Newer(limit=0, colour=Colour.RED)
    assert codec(Newer).decode(codec(Newer).encode(message)).limit == 0


def test_unknown_fields_are_dropped() -> None:
    data = codec(Newer).encode(Newer(text="hi", limit=3, note="new"))
    assert codec(Older).decode(data) == Older(text="hi")


def test_an_empty_message_field_is_present() -> None:
    message = Holder(empty=Empty(), colour=Colour.RED)
    assert codec(Holder).decode(codec(Holder).encode(message)) == message


@pytest.mark.parametrize(
    ("data", "path", "says"),
    [
        (b"", "empty", "empty is required"),
        (b"\x0a\x00", "colour", "colour is required"),
        (b"\x0a\x00\x10\x00", "colour", "colour is required"),
        (b"\x0a\x00\x10\x63", "colour", "unknown value 99; one of red, deep blue is known"),
    ],
)
def test_required_fields_are_asked_for(data: bytes, path: str, says: str) -> None:
    with pytest.raises(Invalid, match=says) as caught:
        codec(Holder).decode(data)
    assert (caught.value.code, caught.value.fields) == ("invalid_field", {"field": path})


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"number": 2**63}, "number"),
        ({"number": -(2**63) - 1}, "number"),
        ({"text": "\ud800"}, "text"),
        ({"ratio": 10**400}, "ratio"),
        ({"colour": "green"}, "colour"),
        ({"leaf": Leaf(text="", number=2**70)}, "leaf.number"),
        ({"numbers": [1, 2**63]}, "numbers[1]"),
        ({"texts": ("", "\udfff")}, "texts[1]"),
        ({"table": {"a": 2**63}}, "table['a']"),
        ({"leaves": [Leaf(text="a"), Leaf(text="\ud800")]}, "leaves[1].text"),
    ],
)
def test_values_the_wire_cannot_carry_are_invalid(change: dict[str, Any], path: str) -> None:
    with pytest.raises(Invalid) as caught:
        codec(Typed).encode(Typed(**change))
    assert (caught.value.code, caught.value.fields) == ("invalid_field", {"field": path})
    assert path in caught.value.message


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"number": "1"}, "number must be int, not str"),
        ({"number": None}, "number must be int, not NoneType"),
        ({"number": 1.5}, "number must be int, not float"),
        ({"text": None}, "text must be str, not NoneType"),
        ({"ratio": "1"}, "ratio must be float, not str"),
        ({"data": 5}, "data must be bytes, not int"),
        ({"leaf": "x"}, "leaf must be Leaf, not str"),
        ({"numbers": None}, "numbers must be list or tuple, not NoneType"),
        ({"leaves": None}, "leaves must be list or tuple, not NoneType"),
        ({"table": None}, "table must be dict, not NoneType"),
        ({"table": {1: 1}}, "table key 1 must be str, not int"),
        ({"leaves": [None]}, r"leaves\[0\] must be Leaf, not NoneType"),
    ],
)
def test_wrong_types_are_our_own_mistake(change: dict[str, Any], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        codec(Typed).encode(Typed(**change))


def test_another_message_altogether() -> None:
    wire: Any = codec(Typed)
    with pytest.raises(TypeError, match="the message must be Typed, not Leaf"):
        wire.encode(Leaf(text="x"))


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", b"\x12\x02\xff\xfe", b"\x12\x03\xed\xa0\x80"])
def test_bytes_that_are_no_message(data: bytes) -> None:
    """Truncated, not UTF-8, half a surrogate pair."""
    with pytest.raises(Invalid, match="not a Typed in protobuf wire format") as caught:
        codec(Typed).decode(data)
    assert caught.value.code == "malformed"


def test_depth_is_bounded() -> None:
    node = Node(name="leaf")
    for _ in range(90):
        node = Node(name="", children=[node])
    assert codec(Node).decode(codec(Node).encode(node)) == node
    data = codec(Node).encode(node)
    for _ in range(20):  # wrapped by hand: field 2, length, what was there
        data = b"\x12" + _varint(len(data)) + data
    with pytest.raises(Invalid, match="nested deeper than 100 levels") as caught:
        codec(Node).decode(data)
    assert caught.value.code == "too_deep"


def test_depth_is_bounded_on_the_way_out_and_in_checks() -> None:
    node = Node(name="leaf")
    for _ in range(20_000):
        node = Node(name="", children=[node])
    for act in (codec(Node).encode, codec(Deep).validate):
        message: Any = node if act == codec(Node).encode else _deep(20_000)
        with pytest.raises(Invalid) as caught:
            act(message)
        assert caught.value.code == "too_deep"
        _unwind(message)
    _unwind(node)


class Deep(Message):
    """Has a bound, so that it is checked."""

    inner: list[Deep] = []
    lines: PlaceOrder | None = None


def _deep(levels: int) -> Deep:
    deep = Deep()
    for _ in range(levels):
        deep = Deep(inner=[deep])
    return deep


def _unwind(message: Any) -> None:
    """Freed level by level: freed at once, so deep a structure exhausts the C stack (of any Python container)."""
    levels = []
    while message is not None:
        inner = message.children if isinstance(message, Node) else message.inner
        levels.append(message)
        message = inner[0] if inner else None
    for level in levels:
        (level.children if isinstance(level, Node) else level.inner).clear()


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def test_how_many_entries_may_arrive_is_bounded() -> None:
    wire = codec(Numbers)
    assert len(wire.decode(wire.encode(Numbers(numbers=[1] * MAX_ITEMS))).numbers) == MAX_ITEMS
    with pytest.raises(Invalid, match="numbers must have at most 100000 entries, not 100001"):
        wire.decode(wire.encode(Numbers(numbers=[1] * (MAX_ITEMS + 1))))


def test_a_list_with_its_own_limit_stops_there() -> None:
    lines = [{"sku": "a", "quantity": 1}] * 101
    order = PlaceOrder(lines=[_line(**line) for line in lines])
    with pytest.raises(Invalid, match="lines must have at most 100 entries, not 101"):
        codec(PlaceOrder).decode(codec(PlaceOrder).encode(order))


def _line(**fields: Any) -> Any:
    from tests.contract.samples import Line

    return Line(**fields)


def test_a_codec_is_built_once() -> None:
    assert codec(Leaf) is codec(Leaf)


@pytest.mark.fuzz
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_message_or_invalid(data: bytes) -> None:
    try:
        message = codec(Everything).decode(data)
    except Invalid:
        return
    codec(Everything).encode(message)


@pytest.mark.fuzz
@given(everything, st.data())
def test_damaged_messages_are_a_message_or_invalid(message: Everything, data: st.DataObject) -> None:
    """Mutations of real messages get further into the decoder than noise does."""
    good = codec(Everything).encode(message)
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, len(damaged)))
        match data.draw(st.sampled_from(["change", "cut", "insert"])):
            case "change" if where < len(damaged):
                damaged[where] = data.draw(st.integers(0, 255))
            case "cut":
                del damaged[where:]
            case _:
                damaged[where:where] = data.draw(st.binary(max_size=8))
    try:
        codec(Everything).encode(codec(Everything).decode(bytes(damaged)))
    except Invalid:
        pass
