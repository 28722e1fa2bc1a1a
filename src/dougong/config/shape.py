"""What the annotation of a setting asks for, sorted into the few kinds that layering must tell apart."""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from enum import Enum
from functools import cache
from typing import Annotated, Union, get_args, get_origin

import msgspec

from dougong.config.secret import Secret

__all__ = ["Field", "Kind", "Shape", "fields_of", "shape_of"]

_LISTS: dict[object, type] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    collections.abc.Sequence: list,
}
"""What an annotation's kind of list is stored as."""
_SIGNS = (
    ("ge", "≥"),
    ("gt", ">"),
    ("le", "≤"),
    ("lt", "<"),
    ("multiple_of", "multiple of"),
    ("pattern", "matching"),
    ("min_length", "length ≥"),
    ("max_length", "length ≤"),
)
_DICTS: tuple[object, ...] = (dict, collections.abc.Mapping)


class Kind(Enum):
    TABLE = "table"
    """A nested settings class: merged field by field."""
    LIST = "list"
    DICT = "dict"
    SECRET = "secret"  # noqa: S105
    LEAF = "leaf"
    """Everything else: msgspec decides."""


class Shape(msgspec.Struct, frozen=True):
    kind: Kind
    annotation: object
    """As written, bounds included."""
    optional: bool
    """None is allowed."""
    table: type[msgspec.Struct] | None = None
    item: object = None
    """Annotation of the entries of a list or dict."""
    make: type = list
    """What a list is stored as."""
    bounds: tuple[msgspec.Meta, ...] = ()

    @property
    def expected(self) -> str:
        """For messages."""
        match self.kind:
            case Kind.TABLE:
                return "a table"
            case Kind.LIST:
                return "a list"
            case Kind.DICT:
                return "a table of names and values"
            case Kind.SECRET:
                return "text"
            case Kind.LEAF:
                return _words(self.annotation)


class Field(msgspec.Struct, frozen=True):
    """One field of a settings class."""

    name: str
    """In files and paths."""
    attribute: str
    annotation: object
    default: object
    """`msgspec.NODEFAULT` when there is none."""
    default_factory: object

    def make_default(self) -> object:
        """The default, or NODEFAULT."""
        if self.default_factory is msgspec.NODEFAULT:
            return self.default
        assert callable(self.default_factory)
        made: object = self.default_factory()
        return made


@cache
def fields_of(table: type[msgspec.Struct]) -> dict[str, Field]:
    """Fields by name. Raises TypeError for names that no environment variable could tell apart."""
    fields = {
        field.encode_name: Field(field.encode_name, field.name, field.type, field.default, field.default_factory)
        for field in msgspec.structs.fields(table)
    }
    seen: dict[str, str] = {}
    for name in fields:
        if "__" in name or name.strip("_") != name:
            raise TypeError(f"{table.__name__}.{name}: '__' separates levels in variables, so no name holds or ends it")
        if (other := seen.setdefault(name.upper(), name)) != name:
            raise TypeError(f"{table.__name__}.{name} and .{other} would be the same variable")
    return fields


def shape_of(annotation: object) -> Shape:
    bounds: list[msgspec.Meta] = []
    optional = False
    inner = annotation
    while True:
        origin = get_origin(inner)
        if origin is Annotated:
            inner, *extra = get_args(inner)
            bounds += [meta for meta in extra if isinstance(meta, msgspec.Meta)]
        elif origin in (Union, types.UnionType):
            arms = [arm for arm in get_args(inner) if arm is not types.NoneType]
            optional = optional or len(arms) < len(get_args(inner))
            if len(arms) != 1:
                return Shape(Kind.LEAF, annotation, optional)
            inner = arms[0]
        else:
            break
    optional = optional or inner is types.NoneType or inner is typing.Any
    arguments = get_args(inner)
    kind: object = origin or inner
    if (table := _table_class(kind, arguments)) is not None:
        return Shape(Kind.TABLE, annotation, optional, table=table)
    if kind is Secret:
        return Shape(Kind.SECRET, annotation, optional)
    if kind in _LISTS and not (kind is tuple and (len(arguments) != 2 or arguments[1] is not Ellipsis)):
        item = arguments[0] if arguments else typing.Any
        return Shape(Kind.LIST, annotation, optional, item=item, make=_LISTS[kind], bounds=tuple(bounds))
    if kind in _DICTS and (not arguments or arguments[0] is str):
        item = arguments[1] if arguments else typing.Any
        return Shape(Kind.DICT, annotation, optional, item=item, bounds=tuple(bounds))
    return Shape(Kind.LEAF, annotation, optional)


def _table_class(kind: object, arguments: tuple[object, ...]) -> type[msgspec.Struct] | None:
    """A class to be merged field by field. Where fields depend on more than the class, msgspec decides as a whole."""
    if not inspect.isclass(kind) or not issubclass(kind, msgspec.Struct):
        return None
    config = kind.__struct_config__
    return None if arguments or config.tag is not None or config.array_like else kind


def _words(annotation: object) -> str:
    """`int | None` rather than `typing.Optional[int]`, with the bounds in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        metas = [meta for meta in arguments[1:] if isinstance(meta, msgspec.Meta)]
        limits = [
            f"{sign} {value}" for meta in metas for name, sign in _SIGNS if (value := getattr(meta, name)) is not None
        ]
        return " ".join([_words(arguments[0]), *limits])
    if origin in (Union, types.UnionType):
        return " | ".join("null" if arm is types.NoneType else _words(arm) for arm in arguments)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(value) for value in arguments)
    if isinstance(annotation, type) and origin is None:
        if issubclass(annotation, Enum):
            return "one of " + ", ".join(repr(member.value) for member in annotation)
        return annotation.__name__
    return str(annotation)
