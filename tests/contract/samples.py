"""Contracts the tests of this room share: every kind of field in every form, and a small shop."""

# ruff: noqa: RUF012 (a Struct copies an empty list for each object; ruff knows that of msgspec.Struct only)

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from enum import StrEnum
from typing import Annotated

import msgspec
from hypothesis import strategies as st
from msgspec import Meta

from dougong.contract import Header, Message, Service, Subject, batched, rpc
from dougong.errors import Error

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
DOUBLE = st.floats(allow_nan=False)


class Colour(StrEnum):
    """A colour."""

    RED = "red"
    DEEP_BLUE = "deep blue"


class Leaf(Message):
    """Nothing nested in it."""

    text: str
    colour: Colour = Colour.DEEP_BLUE
    number: int | None = None


class Node(Message):
    """Contains itself."""

    name: str
    children: list[Node] = []
    parent: Node | None = None


class Everything(Message):
    """Every kind of value in every form."""

    one_bool: bool
    one_int: int
    one_float: float
    one_str: str
    one_bytes: bytes
    one_enum: Colour
    one_message: Leaf
    one_tree: Node
    maybe_bool: bool | None
    maybe_int: int | None = None
    maybe_float: float | None = None
    maybe_str: Annotated[str, Meta(max_length=100)] | None = None
    maybe_bytes: bytes | None = None
    maybe_enum: Colour | None = None
    maybe_message: Leaf | None = None
    zero_bool: bool = False
    zero_int: int = 0
    zero_float: float = 0.0
    zero_str: str = ""
    zero_bytes: bytes = b""
    other_bool: bool = True
    other_int: Annotated[int, Meta(description="Not zero unless told so.")] = 7
    other_float: float = 0.5
    other_str: str = "EUR"
    other_bytes: bytes = b"\x00"
    other_enum: Colour = Colour.RED
    other_message: Leaf = Leaf(text="default")
    made_str: str = msgspec.field(default_factory=lambda: "made")
    list_bool: list[bool] = []
    list_int: list[int] = []
    list_float: list[float] = []
    list_str: list[str] = []
    list_bytes: list[bytes] = []
    list_enum: list[Colour] = []
    list_message: list[Leaf] = []
    list_tree: list[Node] = []
    tuple_int: tuple[int, ...] = ()
    tuple_enum: tuple[Colour, ...] = ()
    tuple_message: tuple[Leaf, ...] = ()
    map_bool: dict[str, bool] = {}
    map_int: dict[str, int] = {}
    map_float: dict[str, float] = {}
    map_str: dict[str, str] = {}
    map_bytes: dict[str, bytes] = {}
    map_enum: dict[str, Colour] = {}
    map_message: dict[str, Leaf] = {}
    map_tree: dict[str, Node] = {}


_colours = st.sampled_from(Colour)
_leaves = st.builds(Leaf, text=TEXT, colour=_colours, number=st.none() | INT64)
_trees = st.recursive(
    st.builds(Node, name=TEXT),
    lambda inner: st.builds(Node, name=TEXT, children=st.lists(inner, max_size=3), parent=st.none() | inner),
    max_leaves=5,
)
_values: dict[str, st.SearchStrategy[object]] = {
    "bool": st.booleans(),
    "int": INT64,
    "float": DOUBLE,
    "str": TEXT,
    "bytes": st.binary(max_size=20),
    "enum": _colours,
    "message": _leaves,
    "tree": _trees,
}


def _field(name: str) -> st.SearchStrategy[object]:
    form, _, kind = name.partition("_")
    value = _values[kind]
    if form == "maybe":
        return st.none() | value
    if form == "list":
        return st.lists(value, max_size=4)
    if form == "tuple":
        return st.lists(value, max_size=4).map(tuple)
    return st.dictionaries(TEXT, value, max_size=3) if form == "map" else value


everything = st.builds(Everything, **{name: _field(name) for name in Everything.__struct_fields__})


class State(StrEnum):
    """Where an order stands."""

    PLACED = "placed"
    DELIVERED = "delivered"


class Line(Message):
    """A SKU and how many of it."""

    sku: Annotated[str, Meta(min_length=1, max_length=64, pattern="^[A-Za-z0-9._-]+$", description="What.")]
    quantity: Annotated[int, Meta(ge=1, le=10_000)]


class PlaceOrder(Message):
    """What is wanted."""

    user_id: Subject = ""
    lines: Annotated[list[Line], Meta(min_length=1, max_length=100)]
    key: Annotated[str, Meta(max_length=128), Header("Idempotency-Key")] = ""


class Order(Message):
    """An order."""

    order_id: str
    state: State
    lines: list[Line]
    attributes: dict[str, str] = {}


class GetOrder(Message):
    """Which order."""

    order_id: str
    user_id: Subject = ""


class ListOrders(Message):
    """Some of one's orders."""

    user_id: Subject = ""
    state: State | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 20
    ids: list[str] = []


class Orders(Service, package="sample.v1"):
    """Takes orders."""

    @batched(http="POST /v1/orders", max_batch=500)
    async def place(self, requests: Sequence[PlaceOrder]) -> Sequence[Order | Error]:
        """Place an order.

        It is accepted once stock is taken.
        """
        raise NotImplementedError

    @rpc(http="GET /v1/orders/{order_id}", on_behalf=("support",))
    async def get(self, request: GetOrder) -> Order:
        """One order."""
        raise NotImplementedError

    @rpc(http="GET /v1/orders", public=True)
    def list_all(self, request: ListOrders) -> AsyncIterator[Order]:
        """One's orders, newest first."""
        raise NotImplementedError

    @rpc(http="PUT /v1/orders/{order_id}", roles=("clerk",))
    async def put(self, request: Order) -> Order:
        """Replace an order."""
        raise NotImplementedError

    @rpc(internal=True)
    async def upload(self, requests: AsyncIterator[PlaceOrder]) -> Order:
        """A client stream; no HTTP form."""
        raise NotImplementedError

    @rpc()
    def echo(self, requests: AsyncIterator[Everything]) -> AsyncIterator[Everything]:
        """Both ways."""
        raise NotImplementedError
