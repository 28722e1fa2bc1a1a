"""What cannot be served is refused where it is declared, naming class, field or method, and the remedy."""

from __future__ import annotations

import types
from collections.abc import AsyncIterator, Sequence
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from msgspec import Meta
from tests.contract import samples
from tests.contract.samples import Leaf, Orders

from dougong.contract import HttpRule, Message, Service, batched, codec, describe, file_descriptors, openapi, rpc

if TYPE_CHECKING:
    from datetime import date


class Plain(Enum):
    A = 1


class Number(IntEnum):
    A = 1


class Missing(Message):
    """Its annotation is not there at run time."""

    day: date


def declared(annotation: Any, name: str = "field", **namespace: Any) -> type[Message]:
    def fill(body: dict[str, Any]) -> None:
        body.update(__annotations__={name: annotation}, **namespace)

    return types.new_class("Bad", (Message,), exec_body=fill)


@pytest.mark.parametrize(
    ("annotation", "says"),
    [
        (set[int], "use bool, int, float, str, bytes, a StrEnum, a Message"),
        (object, "has no form on the wire; use bool"),
        (Plain, "has no form on the wire; use bool"),
        (Number, "has no form on the wire; use bool"),
        (int | str, "has no form on the wire; use bool"),
        (int | str | None, "has no form on the wire; use bool"),
        (None, "has no form on the wire; use bool"),
        (list, "has no form on the wire; use bool"),
        (tuple[int, str], "has no form on the wire; use bool"),
        (list[list[int]], "cannot be an item; wrap it in a Message"),
        (list[int | None], "cannot be an item; wrap it in a Message"),
        (dict[str, list[int]], "cannot be an item; wrap it in a Message"),
        (list[int] | None, r"an absent list or map is an empty one; drop the \| None"),
        (dict[int, str], "a map's keys are str, not <class 'int'>"),
        (Annotated[int, Meta(max_length=3)], "Can only set `max_length` on a str, bytes, or collection"),
        (Annotated[str | None, Meta(max_length=3)], "Can only set `max_length` on a str, bytes, or collection"),
    ],
)
def test_field_types_without_a_form(annotation: Any, says: str) -> None:
    with pytest.raises(TypeError, match=rf"^Bad.*{says}"):
        codec(declared(annotation))


def test_field_names() -> None:
    for name in ("Upper", "_private", "größe"):
        with pytest.raises(TypeError, match=rf"Bad\.{name}: a field's name is lower-case letters.*rename it"):
            codec(declared(int, name))


def test_defaults_that_absence_cannot_tell() -> None:
    with pytest.raises(TypeError, match=r"Bad\.field: an absent list or map is an empty one, so no other default"):
        codec(declared(tuple[int, ...], field=(1,)))
    with pytest.raises(TypeError, match=r"Bad\.field: absent means None for T \| None, so the default is None"):
        codec(declared(int | None, field=5))


def test_an_annotation_that_is_not_there() -> None:
    with pytest.raises(TypeError, match=r"Missing: the annotation names 'date'.*not under TYPE_CHECKING"):
        codec(Missing)


def test_not_a_message() -> None:
    not_message: Any = int
    with pytest.raises(TypeError, match="<class 'int'> is not a Message class"):
        codec(not_message)


def test_two_types_of_one_name() -> None:
    twin = types.new_class("Leaf", (Message,))
    both = types.new_class("Both", (Message,), exec_body=lambda ns: ns.update(__annotations__={"a": Leaf, "b": twin}))
    with pytest.raises(
        TypeError, match=r"two types named Leaf meet in one contract: tests.contract.samples.Leaf and .*"
    ):
        codec(both)


def test_two_services_of_one_name() -> None:
    class Orders(Service, package="sample.v1"):
        """The same full name as the sample's."""

        @rpc()
        async def get(self, request: Leaf) -> Leaf:
            raise NotImplementedError

    with pytest.raises(TypeError, match=r"the name Orders stands twice in package sample.v1; rename one"):
        file_descriptors([samples.Orders, Orders])


def test_two_methods_of_one_wire_name() -> None:
    class Clash(Service, package="sample.v1"):
        """Batched `place` is also `PlaceBatch`."""

        @batched()
        async def place(self, requests: Sequence[Leaf]) -> Sequence[Leaf]:
            raise NotImplementedError

        @rpc()
        async def place_batch(self, request: Leaf) -> Leaf:
            raise NotImplementedError

    with pytest.raises(
        TypeError, match=r"sample.v1.Clash: place and place_batch are both PlaceBatch on the wire; rename"
    ):
        describe(Clash)


def test_an_overridden_method_is_one_method() -> None:
    class Child(Orders, package="sample.v2"):
        """Replaces one method."""

        @rpc()
        async def get(self, request: Leaf) -> Leaf:  # type: ignore[override]
            raise NotImplementedError

    methods = {method.attribute: method for method in describe(Child).methods}
    assert methods["get"].request is Leaf
    assert len(methods) == len(describe(Orders).methods)


@pytest.mark.parametrize(
    "text", ["GET v1", "FETCH /v1", "GET /v1/{id", "GET /v1/{Id}", "GET /v1/{id}/{id}", "GET /{a.b}"]
)
def test_http_rules_that_are_none(text: str) -> None:
    with pytest.raises(TypeError, match="http rule"):
        HttpRule.parse(text)


def test_signatures() -> None:
    def method(function: Any) -> type[Service]:
        return types.new_class("S", (Service,), exec_body=lambda ns: ns.update(m=function))

    @rpc()
    async def bare(self: Any, request: Leaf):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    @rpc()
    async def number(self: Any, request: int) -> Leaf:
        raise NotImplementedError

    @rpc(http="POST /v1/things")
    async def upload(self: Any, requests: AsyncIterator[Leaf]) -> Leaf:
        raise NotImplementedError

    @rpc(http="GET /v1/{nothing}")
    async def lost(self: Any, request: Leaf) -> Leaf:
        raise NotImplementedError

    @rpc()
    async def unknown(self: Any, request: date) -> Leaf:
        raise NotImplementedError

    for function, says in (
        (bare, r"app.v1.S.m: a method takes exactly one annotated parameter"),
        (number, r"app.v1.S.m: the request must be a Message, not <class 'int'>"),
        (upload, r"app.v1.S.m: a client stream has no HTTP form; drop http="),
        (lost, r"app.v1.S.m: path parameter 'nothing' of '/v1/{nothing}' is no field of Leaf"),
        (unknown, r"app.v1.S.m: the annotation names 'date', which is not known"),
    ):
        with pytest.raises(TypeError, match=says):
            describe(method(function))


def test_marks_that_contradict_each_other() -> None:
    with pytest.raises(TypeError, match="either public or restricted"):
        rpc(public=True, roles=["clerk"])
    with pytest.raises(TypeError, match="timeout_s must be positive"):
        rpc(timeout_s=0)
    with pytest.raises(TypeError, match="max_batch must be at least 1"):
        batched(max_batch=0)


def test_what_http_cannot_carry_outside_a_body() -> None:
    class Bad(Service):
        """A GET has no body to put a message into."""

        @rpc(http="GET /v1/things")
        async def get(self, request: samples.Order) -> Leaf:
            raise NotImplementedError

    with pytest.raises(TypeError, match=r"app.v1.Bad.get: Order.lines cannot travel outside a body; use POST"):
        openapi([Bad], title="x", version="1")
