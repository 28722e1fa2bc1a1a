"""From a field's type to a column: what the database holds, and how a value gets there and back.

Databases agree on little beyond numbers, text and bytes, so everything else is stored as one of those, the same
on every engine: UTC times as integer microseconds, enums by value, decimals, dates, UUIDs and JSON as text.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import types
import typing
import uuid
from collections.abc import Callable
from typing import Any, get_args, get_origin

import msgspec
import sqlalchemy as sa

from dougong.errors import Invalid
from dougong.store import Value

__all__ = ["Column", "column"]

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


class Column(msgspec.Struct, frozen=True):
    """One field as a column. `store` and `load` are None where the value goes as it is."""

    name: str
    nullable: bool
    sql: sa.types.TypeEngine[Any]
    store: Callable[[Any], Value] | None
    load: Callable[[Any], object] | None


def _time_to_us(value: dt.datetime) -> int:
    if value.tzinfo is None:
        raise Invalid(f"{value!r} has no time zone; use an aware datetime", code="naive_datetime")
    return (value - _EPOCH) // _MICROSECOND


def _us_to_time(value: int) -> dt.datetime:
    return _EPOCH + value * _MICROSECOND


_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_PLAIN: dict[type, sa.types.TypeEngine[Any]] = {
    int: _BIG,
    float: sa.Double(),
    str: sa.Text().with_variant(sa.String(255), "mysql"),
    bytes: sa.LargeBinary(),
}
_CONVERTED: dict[type, tuple[sa.types.TypeEngine[Any], Callable[[Any], Value], Callable[[Any], object]]] = {
    bool: (sa.SmallInteger(), int, bool),
    dt.datetime: (_BIG, _time_to_us, _us_to_time),
    dt.date: (sa.String(10), dt.date.isoformat, dt.date.fromisoformat),
    decimal.Decimal: (sa.String(80), str, decimal.Decimal),
    uuid.UUID: (sa.String(36), str, uuid.UUID),
}


def column(entity: str, name: str, annotation: object) -> Column:
    """The column for one annotated field; TypeError names what cannot be stored."""
    kind, nullable = _without_none(annotation)
    if isinstance(kind, type) and kind in _PLAIN:
        return Column(name, nullable, _PLAIN[kind], None, None)
    if isinstance(kind, type) and kind in _CONVERTED:
        return Column(name, nullable, *_CONVERTED[kind])
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        whole = issubclass(kind, int)
        return Column(name, nullable, _BIG if whole else sa.String(100), _enum_value, kind)
    if _is_json(kind):
        decoder = msgspec.json.Decoder(kind)
        return Column(name, nullable, sa.Text(), _to_json, decoder.decode)
    raise TypeError(
        f"{entity}.{name}: {kind!r} has no column; use bool, int, float, str, bytes, Decimal, datetime, date, UUID, an"
        " Enum, or list, dict or Struct (stored as JSON)"
    )


def _enum_value(member: enum.Enum) -> Value:
    value: Value = member.value
    return value


def _to_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _is_json(kind: object) -> bool:
    origin = get_origin(kind) or kind
    return isinstance(origin, type) and (origin in (list, dict, tuple) or issubclass(origin, msgspec.Struct))


def _without_none(annotation: object) -> tuple[object, bool]:
    """`Annotated[int | None, ...]` → (int, True)."""
    if get_origin(annotation) is typing.Annotated:
        return _without_none(get_args(annotation)[0])
    if get_origin(annotation) in (typing.Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not types.NoneType]
        if len(kinds) == 1:
            return _without_none(kinds[0])[0], True
    return annotation, False
