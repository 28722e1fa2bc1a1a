"""What a message class looks like on the wire: its annotations, read once, as plain values.

Everything else in this room (descriptors, codec, lock, documents) works from `MessageShape` and never looks at
annotations again, so the rules about what a field may be stand here and nowhere else.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, get_args, get_origin

import msgspec

from dougong.contract._declare import Message

__all__ = ["EnumShape", "FieldShape", "MessageShape", "Shape", "ValueShape", "closure", "shape_of"]

MAX_ITEMS = 100_000
"""How many entries a list or map may have on arrival, unless its own `Meta(max_length=...)` says otherwise."""

_SCALARS: dict[type, str] = {bool: "bool", int: "int64", float: "double", str: "string", bytes: "bytes"}
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_REMEDY = "use bool, int, float, str, bytes, a StrEnum, a Message, list[T], tuple[T, ...], dict[str, T] or T | None"

Bounds = Mapping[str, Any]
_BOUNDS = ("ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length", "pattern")


@dataclass(frozen=True, slots=True)
class ValueShape:
    """One value: a field's own, a list's item or a map's value."""

    kind: str
    """`bool int64 double string bytes enum message`."""
    type: type[Any]
    bounds: Bounds

    @property
    def wire_type(self) -> str:
        """As `.proto` says it: `int64`, or the name of the enum or message."""
        return self.type.__name__ if self.kind in ("enum", "message") else self.kind


@dataclass(frozen=True, slots=True)
class FieldShape:
    """One field of a message."""

    name: str
    json_name: str
    form: str
    """`one optional list tuple map`."""
    value: ValueShape
    bounds: Bounds
    """Of the list or map itself; those of its items are in `value`."""
    key_bounds: Bounds
    default: Any
    """The default value, a zero-argument factory (see `factory`), or `msgspec.NODEFAULT`."""
    factory: bool
    doc: str

    @property
    def wire_type(self) -> str:
        """As locked: `int64`, `repeated Line`, `map<string, double>`. Presence is not part of it."""
        if self.form in ("list", "tuple"):
            return f"repeated {self.value.wire_type}"
        return f"map<string, {self.value.wire_type}>" if self.form == "map" else self.value.wire_type

    @property
    def zero_default(self) -> bool:
        """The default is what proto3 reads anyway when the field is absent."""
        return not self.factory and self.default in (False, 0, 0.0, "", b"") and self.default is not None

    @property
    def presence(self) -> bool:
        """Scalars whose absence is not the same as zero are `optional` in the `.proto`: they say whether they came."""
        if self.value.kind == "message" or self.form not in ("one", "optional"):
            return False
        return self.form == "optional" or not (self.default is msgspec.NODEFAULT or self.zero_default)

    @property
    def max_items(self) -> int:
        return int(self.bounds.get("max_length", MAX_ITEMS))


@dataclass(frozen=True, slots=True)
class EnumShape:
    """A StrEnum. Its numbers start at 1; 0 is UNSPECIFIED, which proto3 demands and which we refuse to read."""

    type: type[StrEnum]
    doc: str

    @property
    def name(self) -> str:
        return self.type.__name__

    def value_name(self, member: str) -> str:
        """Enum values share their package's namespace in proto, hence the prefix."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", self.name).upper() + "_" + member.upper()


@dataclass(frozen=True, slots=True)
class MessageShape:
    """A message class."""

    type: type[Message]
    fields: tuple[FieldShape, ...]
    doc: str

    @property
    def name(self) -> str:
        return self.type.__name__


def shape_of(message: type[Message]) -> MessageShape:
    """The shape of one message class. Raises TypeError naming class, field and remedy when it has none."""
    return _shape_of(message)


@functools.cache
def _shape_of(message: type[Message]) -> MessageShape:
    if not (isinstance(message, type) and issubclass(message, Message)):
        raise TypeError(f"{message!r} is not a Message class")
    try:
        hints = typing.get_type_hints(message, include_extras=True)
    except NameError as error:
        raise TypeError(
            f"{message.__qualname__}: the annotation names {error.name!r}, which is not known in {message.__module__}; "
            "define or import it at module level, not under TYPE_CHECKING"
        ) from error
    fields = tuple(_field(message, info, hints[info.name]) for info in msgspec.structs.fields(message))
    try:
        msgspec.json.Decoder(message)  # msgspec knows which bounds fit which types
    except TypeError as error:
        raise TypeError(f"{message.__qualname__}: {error}") from error
    return MessageShape(message, fields, _doc(message))


Shape = MessageShape | EnumShape


def closure(roots: Iterable[type[Message]]) -> tuple[tuple[MessageShape, ...], tuple[EnumShape, ...]]:
    """All messages and enums reachable from `roots`, each before what it mentions, in a stable order.

    Raises TypeError when two classes of the same name meet: on the wire they would be one.
    """
    messages: dict[type, MessageShape] = {}
    enums: dict[type, EnumShape] = {}
    named: dict[str, type] = {}
    pending = list(reversed(list(roots)))
    while pending:
        kind = pending.pop()
        if kind in messages:
            continue
        _claim(named, kind)
        shape = messages[kind] = shape_of(kind)
        nested: list[type[Message]] = []
        for field in shape.fields:
            if field.value.kind == "enum" and field.value.type not in enums:
                _claim(named, field.value.type)
                enums[field.value.type] = EnumShape(field.value.type, _doc(field.value.type))
            elif field.value.kind == "message":
                nested.append(field.value.type)
        pending.extend(reversed(nested))
    return tuple(messages.values()), tuple(enums.values())


def _claim(named: dict[str, type], kind: type) -> None:
    other = named.setdefault(kind.__name__, kind)
    if other is not kind:
        raise TypeError(
            f"two types named {kind.__name__} meet in one contract: {other.__module__}.{other.__qualname__} and "
            f"{kind.__module__}.{kind.__qualname__}; rename one"
        )


def _doc(kind: type) -> str:
    """The class's own docstring; Enum and Struct would otherwise lend theirs."""
    return inspect.cleandoc(kind.__dict__.get("__doc__") or "")


def _field(message: type[Message], info: msgspec.structs.FieldInfo, annotation: Any) -> FieldShape:
    where = f"{message.__qualname__}.{info.name}"
    if _NAME.fullmatch(info.name) is None:
        raise TypeError(
            f"{where}: a field's name is lower-case letters, digits and _, starting with a letter; rename it"
        )
    factory = info.default_factory is not msgspec.NODEFAULT
    default: Any = info.default_factory if factory else info.default
    inner, metas = _unwrap(annotation)
    form, item, key_bounds = "one", inner, dict[str, Any]()
    if get_origin(inner) in (typing.Union, types.UnionType):
        options = [option for option in get_args(inner) if option is not type(None)]
        if len(options) != 1 or len(options) == len(get_args(inner)):
            raise TypeError(f"{where}: {inner!r} has no form on the wire; {_REMEDY}")
        form, (item, more) = "optional", _unwrap(options[0])
        metas += more
    origin = get_origin(item)
    if origin in (list, tuple, dict) or item in (list, tuple, dict):
        form, item, key_bounds = _container(where, form, origin, item)
        bounds = _bounds(metas)
        inner_item, item_metas = _unwrap(item)
        value = _value(where, inner_item, _bounds(item_metas))
        if not (default is msgspec.NODEFAULT or default == () or (factory and default in (list, dict))):
            raise TypeError(f"{where}: an absent list or map is an empty one, so no other default can be told; drop it")
    else:
        bounds, value = {}, _value(where, item, _bounds(metas))
    if form == "optional" and default not in (None, msgspec.NODEFAULT):
        raise TypeError(
            f"{where}: absent means None for T | None, so the default is None or none; drop it or the | None"
        )
    doc = next((meta.description for meta in metas if meta.description), "")
    return FieldShape(info.name, info.encode_name, form, value, bounds, key_bounds, default, factory, doc)


def _container(where: str, form: str, origin: Any, annotation: Any) -> tuple[str, Any, dict[str, Any]]:
    """Form, item annotation and bounds of the keys."""
    if form == "optional":
        raise TypeError(f"{where}: an absent list or map is an empty one; drop the | None")
    arguments = get_args(annotation)
    if origin is list:
        return "list", arguments[0], {}
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return "tuple", arguments[0], {}
    if origin is dict:
        key, metas = _unwrap(arguments[0])
        if key is not str:
            raise TypeError(f"{where}: a map's keys are str, not {key!r}")
        return "map", arguments[1], _bounds(metas)
    raise TypeError(f"{where}: {annotation!r} has no form on the wire; {_REMEDY}")


def _value(where: str, annotation: Any, bounds: dict[str, Any]) -> ValueShape:
    if isinstance(annotation, type):
        if (kind := _SCALARS.get(annotation)) is not None:
            return ValueShape(kind, annotation, bounds)
        if issubclass(annotation, Message):
            return ValueShape("message", annotation, bounds)
        if issubclass(annotation, StrEnum):
            return ValueShape("enum", annotation, bounds)
    if get_origin(annotation) in (list, tuple, dict, typing.Union, types.UnionType):
        raise TypeError(f"{where}: {annotation!r} cannot be an item; wrap it in a Message")
    raise TypeError(f"{where}: {annotation!r} has no form on the wire; {_REMEDY}")


def _unwrap(annotation: Any) -> tuple[Any, list[msgspec.Meta]]:
    """`Annotated[Annotated[T, a], b]` → T and its Metas."""
    metas: list[msgspec.Meta] = []
    while get_origin(annotation) is typing.Annotated:
        metas += [part for part in annotation.__metadata__ if isinstance(part, msgspec.Meta)]
        annotation = annotation.__origin__
    return annotation, metas


def _bounds(metas: Iterable[msgspec.Meta]) -> dict[str, Any]:
    return {name: bound for meta in metas for name in _BOUNDS if (bound := getattr(meta, name)) is not None}
