"""Conditions on columns, as values: `{"status": "new", "amount": at_least(5)}`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import sqlalchemy as sa

from dougong.dao._columns import Column
from dougong.dao._entity import Shape
from dougong.errors import Invalid
from dougong.store import Value

__all__ = ["Condition", "Where", "above", "at_least", "at_most", "below", "differs_from", "one_of", "starts_with"]


class Condition(msgspec.Struct, frozen=True):
    """What a column's value must fulfil; made by the functions of this module."""

    operator: str
    operand: object


Where = Mapping[str, object]
"""Column name → a value it must equal (None: be NULL) or a `Condition`; all must hold."""

ONE_OF_MAX = 500


def at_least(value: object) -> Condition:
    return Condition(">=", value)


def at_most(value: object) -> Condition:
    return Condition("<=", value)


def above(value: object) -> Condition:
    return Condition(">", value)


def below(value: object) -> Condition:
    return Condition("<", value)


def differs_from(value: object) -> Condition:
    """Not equal; `differs_from(None)` is IS NOT NULL. As in SQL, NULL differs from nothing."""
    return Condition("!=", value)


def one_of(values: Iterable[object]) -> Condition:
    """Equal to one of at most 500 values; none at all finds nothing."""
    listed = tuple(values)
    if len(listed) > ONE_OF_MAX:
        raise Invalid(
            f"one_of takes at most {ONE_OF_MAX} values, not {len(listed)}; ask in parts", code="too_many_values"
        )
    return Condition("in", listed)


def starts_with(prefix: str) -> Condition:
    """Text that begins with `prefix`, by code points."""
    return Condition("prefix", prefix)


Part = tuple[str, str, int]
"""Column, operator, number of parameters: all that the SQL text depends on."""


def parse(shape: Shape, where: Where) -> tuple[tuple[Part, ...], list[Value]]:
    """Split conditions into what shapes the SQL text and the parameters in its order."""
    parts: list[Part] = []
    parameters: list[Value] = []
    for name in sorted(where):
        column = column_named(shape, name)
        given = where[name]
        condition = given if isinstance(given, Condition) else Condition("==", given)
        values = _operands(condition)
        if values == [None]:
            if condition.operator not in ("==", "!="):
                raise Invalid(f"{shape.name}.{name} {condition.operator} None means nothing", code="bad_condition")
            parts.append((name, "null" if condition.operator == "==" else "not null", 0))
            continue
        parts.append((name, condition.operator, len(values)))
        parameters += [to_value(shape, column, value) for value in values]
    return tuple(parts), parameters


def _operands(condition: Condition) -> list[object]:
    operand = condition.operand
    if condition.operator == "in":
        assert isinstance(operand, tuple)
        return padded(operand)
    if condition.operator == "prefix":
        prefix = str(operand)
        # The smallest text above all that start so: no LIKE, so no wildcards to escape and an index is of use.
        return [prefix, prefix + "\U0010ffff"]
    return [operand]


def padded(values: tuple[Any, ...]) -> list[Any]:
    """The last value repeated up to a power of two: ten statements serve all lengths."""
    if not values:
        return []
    size = 1 << (len(values) - 1).bit_length()
    return [*values, *(values[-1],) * (size - len(values))]


def render(shape: Shape, parts: tuple[Part, ...]) -> list[sa.ColumnElement[bool]]:
    """The conditions as SQLAlchemy expressions with nameless parameters, in order."""
    return [_expression(shape.table.c[name], operator, count) for name, operator, count in parts]


def _expression(column: sa.Column[Any], operator: str, count: int) -> sa.ColumnElement[bool]:
    if operator == "null":
        return column.is_(None)
    if operator == "not null":
        return column.is_not(None)
    if operator == "in":
        return column.in_([parameter() for _ in range(count)]) if count else sa.false()
    if operator == "prefix":
        return sa.and_(column >= parameter(), column < parameter())
    made: sa.ColumnElement[bool] = column.op("=" if operator == "==" else operator, is_comparison=True)(parameter())
    return made


def parameter() -> sa.BindParameter[Any]:
    """One more `?`. Its SQL type is nobody's business: values arrive converted."""
    return sa.bindparam(None, required=True, unique=True, type_=sa.types.NullType())


def column_named(shape: Shape, name: str) -> Column:
    column = shape.by_name.get(name)
    if column is None:
        raise Invalid(
            f"{shape.name} has no column {name!r}; it has {', '.join(shape.by_name)}",
            code="unknown_column",
            column=name,
        )
    return column


def to_value(shape: Shape, column: Column, value: object) -> Value:
    """A Python value as the database holds it."""
    if value is None or column.store is None:
        return value  # type: ignore[return-value]  # the driver refuses what it cannot hold, by name
    try:
        return column.store(value)
    except (AttributeError, TypeError, ValueError) as error:
        raise Invalid(
            f"{shape.name}.{column.name} cannot hold {value!r}: {error}", code="wrong_type", column=column.name
        ) from error
