"""From a field's type to a column: what the database holds, and how a value gets there and back.

Databases agree on little beyond numbers, text and bytes, so everything else is stored as one of those, the same
on every engine: UTC times as integer microseconds, enums by value, decimals, dates, UUIDs and JSON as text. What only
some engines can hold (NUL in text, infinity, longer text than was announced) is refused on all of them.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import math
import types
import typing
import uuid
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

import msgspec

from dougong.store import Value

__all__ = ["Column", "SqlType", "column_for"]

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_WHOLE_MAX = 2**63 - 1

TEXT_MAX = 255
"""Characters in a `str`, unless `Annotated[str, msgspec.Meta(max_length=...)]` says otherwise."""
_DECIMAL_MAX = 80
_ENUM_MAX = 100

Store = Callable[[Any], Value]
Load = Callable[[Any], object]


class SqlType(msgspec.Struct, frozen=True):
    """What to call a column's type in SQL; `_create` writes it for each engine."""

    kind: Literal["whole", "real", "bytes", "truth", "text"]
    characters: int = 0
    """Of text: at most so many; 0 for as much as there is room for."""


class Column(msgspec.Struct, frozen=True):
    """One field as a column."""

    name: str
    nullable: bool
    sql: SqlType
    held: type
    """What the database holds: int, float, str or bytes."""
    store: Store
    """What is held for a value; TypeError or ValueError for one that the column cannot hold."""
    load: Load | None = None
    """The way back; None where the value comes as it is."""
    ordered: bool = True
    """Whether the database's order is the values' own."""


class _Kind(typing.NamedTuple):
    sql: SqlType
    held: type
    store: Store
    load: Load | None = None
    ordered: bool = True


def _whole(value: Any) -> Value:
    if type(value) is not int:
        raise TypeError(f"it takes int, not {type(value).__name__}")
    if not -_WHOLE_MAX <= value <= _WHOLE_MAX and value != -_WHOLE_MAX - 1:
        raise ValueError("it has 64 bits")
    return value


def _bytes(value: Any) -> Value:
    if type(value) is not bytes:
        raise TypeError(f"it takes bytes, not {type(value).__name__}")
    return value


def _real(value: Any) -> Value:
    if type(value) is not float and type(value) is not int:
        raise TypeError(f"it takes float, not {type(value).__name__}")
    real = float(value)
    if not math.isfinite(real):
        raise ValueError("it takes finite numbers only, as not every database has others")
    return real


def _text(most: int) -> Store:
    def text(value: Any) -> Value:
        if not isinstance(value, str):
            raise TypeError(f"it takes str, not {type(value).__name__}")
        if len(value) > most:
            raise ValueError(f"it takes {most} characters; Annotated[str, msgspec.Meta(max_length=...)] makes room")
        if "\0" in value:
            raise ValueError("it takes text without NUL, as not every database has room for that")
        if not value.isascii():
            value.encode()  # half a surrogate pair is no text
        return str(value)

    return text


def _uuid(value: Any) -> Value:
    if not isinstance(value, uuid.UUID):
        raise TypeError(f"it takes UUID, not {type(value).__name__}")
    return str(value)


def _truth(value: Any) -> Value:
    if type(value) is not bool:
        raise TypeError(f"it takes bool, not {type(value).__name__}")
    return int(value)


def _time_to_us(value: Any) -> Value:
    if not isinstance(value, dt.datetime):
        raise TypeError(f"it takes datetime, not {type(value).__name__}")
    if value.tzinfo is None:
        raise ValueError("it has no time zone; use an aware datetime")
    return (value - _EPOCH) // _MICROSECOND


def _us_to_time(value: int) -> dt.datetime:
    return _EPOCH + value * _MICROSECOND


def _day(value: Any) -> Value:
    if type(value) is not dt.date:
        raise TypeError(f"it takes date, not {type(value).__name__}")
    return value.isoformat()


def _decimal(value: Any) -> Value:
    """Equal numbers are held as the same text, so that a filter finds them: 1.50, 1.5 and 15e-1 as 1.5."""
    if not isinstance(value, decimal.Decimal):
        raise TypeError(f"it takes Decimal, not {type(value).__name__}")
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise ValueError("it takes finite numbers only")
    text = "".join(map(str, digits)).lstrip("0")
    short = text.rstrip("0")
    if not short:
        return "0"
    exponent += len(text) - len(short)
    held = str(decimal.Decimal((sign, tuple(map(int, short)), exponent)))
    if len(held) > _DECIMAL_MAX:
        raise ValueError(f"it has room for {_DECIMAL_MAX} characters")
    return held


_WHOLE = SqlType("whole")
_KINDS: dict[type, _Kind] = {
    int: _Kind(_WHOLE, int, _whole),
    float: _Kind(SqlType("real"), float, _real),
    bytes: _Kind(SqlType("bytes"), bytes, _bytes),
    bool: _Kind(SqlType("truth"), int, _truth, bool),
    dt.datetime: _Kind(_WHOLE, int, _time_to_us, _us_to_time),
    dt.date: _Kind(SqlType("text", 10), str, _day, dt.date.fromisoformat),
    decimal.Decimal: _Kind(SqlType("text", _DECIMAL_MAX), str, _decimal, decimal.Decimal, ordered=False),
    uuid.UUID: _Kind(SqlType("text", 36), str, _uuid, uuid.UUID),
}


def column_for(entity: str, name: str, annotation: object) -> Column:
    """The column for one annotated field; TypeError names what cannot be stored."""
    bare, nullable, text_max = _without_none(annotation)
    kind = _kind(f"{entity}.{name}", bare, text_max)
    if kind is None:
        raise TypeError(
            f"{entity}.{name}: {bare!r} has no column; use bool, int, float, str, bytes, Decimal, datetime, date, UUID,"
            " an Enum, or list, dict or Struct (stored as JSON)"
        )
    store, load = kind.store, kind.load
    if nullable:
        store, load = _or_none(store), load and _or_none(load)
    return Column(name, nullable, kind.sql, kind.held, store, load, kind.ordered)


def _kind(where: str, bare: object, text_max: int) -> _Kind | None:
    origin = get_origin(bare) or bare
    if not isinstance(origin, type):
        return None
    if origin is str:
        return _Kind(SqlType("text", text_max), str, _text(text_max))
    if origin in _KINDS:
        return _KINDS[origin]
    if issubclass(origin, enum.Enum):
        return _enum(where, origin)
    if origin in (list, dict, tuple) or issubclass(origin, msgspec.Struct):
        return _json(bare, origin)
    return None


def _enum(where: str, kind: type[enum.Enum]) -> _Kind:
    held = {type(member.value) for member in kind}
    if held == {int}:
        return _Kind(_WHOLE, int, _member(kind), kind)
    if held == {str} and all(len(member.value) <= _ENUM_MAX for member in kind):
        return _Kind(SqlType("text", _ENUM_MAX), str, _member(kind), kind)
    raise TypeError(f"{where}: the values of {kind.__name__} must be all int, or all str of {_ENUM_MAX} characters")


def _member(kind: type[enum.Enum]) -> Store:
    def value_of(member: Any) -> Value:
        if not isinstance(member, kind):
            raise TypeError(f"it takes {kind.__name__}, not {type(member).__name__}")
        value: Value = member.value
        return value

    return value_of


def _json(kind: Any, origin: type) -> _Kind:
    decoder = msgspec.json.Decoder(kind)

    def to_json(value: Any) -> Value:
        if not isinstance(value, origin):
            raise TypeError(f"it takes {origin.__name__}, not {type(value).__name__}")
        return msgspec.json.encode(value, order="sorted").decode()

    return _Kind(SqlType("text"), str, to_json, decoder.decode, ordered=False)


def _or_none(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else function(value)


def _without_none(annotation: object) -> tuple[object, bool, int]:
    """`Annotated[str | None, Meta(max_length=9)]` → (str, True, 9)."""
    if get_origin(annotation) is typing.Annotated:
        inner, *extras = get_args(annotation)
        bare, nullable, text_max = _without_none(inner)
        for extra in extras:
            if isinstance(extra, msgspec.Meta) and extra.max_length is not None:
                text_max = extra.max_length
        return bare, nullable, text_max
    if get_origin(annotation) in (typing.Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not types.NoneType]
        if len(kinds) == 1:
            bare, _, text_max = _without_none(kinds[0])
            return bare, True, text_max
    return annotation, False, TEXT_MAX
