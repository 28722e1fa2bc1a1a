"""Conditions and orders, typed by the field they are about: `column(User.age).at_least(18)`."""

from __future__ import annotations

import types
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import msgspec

from dougong.dao._entity import Entity
from dougong.errors import Invalid
from dougong.store import Value

if TYPE_CHECKING:
    from dougong.dao._columns import Column
    from dougong.dao._shape import Shape

__all__ = ["ColumnOf", "Condition", "Order", "Part", "column", "column_named", "padded", "parse", "to_value"]

V = TypeVar("V")

ONE_OF_MAX = 500
CONDITIONS_MAX = 100
_COMPARES = frozenset({">=", "<=", ">", "<"})


class Condition(msgspec.Struct, frozen=True):
    """What a column's value must fulfil; made by the methods of `column(...)`."""

    entity: type[Entity]
    name: str
    operator: str
    operands: tuple[object, ...]


class Order(msgspec.Struct, frozen=True):
    """A column that orders rows, made by `column(...).ascending` and `.descending`."""

    entity: type[Entity]
    name: str
    down: bool


class ColumnOf(Generic[V]):
    """A column whose values are `V` in Python; see `column`."""

    __slots__ = ("_entity", "_name")

    def __init__(self, entity: type[Entity], name: str) -> None:
        self._entity = entity
        self._name = name

    def equals(self, value: V) -> Condition:
        return self._condition("=", value)

    def differs_from(self, value: V) -> Condition:
        """Not equal. As in SQL, NULL differs from nothing."""
        return self._condition("!=", value)

    def at_least(self, value: V) -> Condition:
        return self._condition(">=", value)

    def at_most(self, value: V) -> Condition:
        return self._condition("<=", value)

    def above(self, value: V) -> Condition:
        return self._condition(">", value)

    def below(self, value: V) -> Condition:
        return self._condition("<", value)

    def one_of(self, values: Iterable[V]) -> Condition:
        """Equal to one of at most 500 values; none at all finds nothing."""
        return self._condition("in", *values)

    def starts_with(self: ColumnOf[str], prefix: str) -> Condition:
        """Text that begins with `prefix`, by code points."""
        return self._condition("prefix", prefix)

    def is_null(self) -> Condition:
        return self._condition("null")

    def is_not_null(self) -> Condition:
        return self._condition("not null")

    @property
    def ascending(self) -> Order:
        return Order(self._entity, self._name, down=False)

    @property
    def descending(self) -> Order:
        return Order(self._entity, self._name, down=True)

    def _condition(self, operator: str, *operands: object) -> Condition:
        return Condition(self._entity, self._name, operator, operands)


def column(field: V | None) -> ColumnOf[V]:
    """The column behind a field, taken from its class: `column(User.email)`.

    Type checkers see `User.email` as the field's own type, and so know what it may be compared with.
    """
    member: object = field
    if isinstance(member, types.MemberDescriptorType) and issubclass(member.__objclass__, Entity):
        return ColumnOf(member.__objclass__, member.__name__)
    raise TypeError(f"column(...) takes a field from an Entity class, as in column(User.email), not {member!r}")


Part = tuple[str, str, int]
"""Column, operator, number of parameters: all that the SQL text depends on."""


def parse(entity: type[Entity], shape: Shape, conditions: Sequence[Condition]) -> tuple[tuple[Part, ...], list[Value]]:
    """Split conditions into what shapes the SQL text and the parameters in its order."""
    if len(conditions) > CONDITIONS_MAX:
        raise _refused(shape, "", f"at most {CONDITIONS_MAX} conditions, not {len(conditions)}", "too_many_conditions")
    parts: list[Part] = []
    parameters: list[Value] = []
    for condition in conditions:
        found = column_named(entity, shape, condition)
        values = [to_value(shape, found, value) for value in condition.operands]
        if condition.operator == "in":
            if len(values) > ONE_OF_MAX:
                message = f"one_of takes at most {ONE_OF_MAX} values, not {len(values)}; ask in parts"
                raise _refused(shape, found.name, message, "too_many_values")
            if None in values:
                raise _refused(shape, found.name, "nothing equals None; use is_null()", "bad_condition")
            values = padded(values)
        elif None in values:
            raise _refused(shape, found.name, "nothing compares with None; use is_null()", "bad_condition")
        elif condition.operator in _COMPARES and not found.ordered:
            raise _refused(shape, found.name, "it is stored as text that sorts otherwise", "unordered_column")
        elif condition.operator == "prefix":
            if found.held is not str or found.load is not None:
                raise _refused(shape, found.name, "starts_with is for text", "bad_condition")
            parts.append((found.name, ">=", 1))
            # No LIKE, so no wildcards to escape, and an index is of use.
            above = _after_all(cast(str, values[0]))
            if above:
                parts.append((found.name, "<", 1))
                values.append(above)
            parameters += values
            continue
        parts.append((found.name, condition.operator, len(values)))
        parameters += values
    return tuple(parts), parameters


def _after_all(prefix: str) -> str:
    """The smallest text above all that start with `prefix`; empty when there is none."""
    short = prefix.rstrip("\U0010ffff")
    if not short:
        return ""
    following = ord(short[-1]) + 1
    return short[:-1] + chr(0xE000 if following == 0xD800 else following)  # past the surrogates, which are no text


def padded(values: list[Value]) -> list[Value]:
    """The last value repeated up to a power of two: ten statements serve all lengths."""
    if not values:
        return values
    size = 1 << (len(values) - 1).bit_length()
    return values + values[-1:] * (size - len(values))


def column_named(entity: type[Entity], shape: Shape, asked: Condition | Order) -> Column:
    """The column that a condition or order of this entity is about."""
    if not isinstance(asked, Condition | Order):
        raise TypeError(f"{shape.name}: {asked!r} is neither condition nor order; make one with column({shape.name}.…)")
    found = shape.by_name.get(asked.name) if issubclass(entity, asked.entity) else None
    if found is None:
        raise _refused(shape, asked.name, f"that is a column of {asked.entity.__name__}", "unknown_column")
    return found


def to_value(shape: Shape, column: Column, value: object) -> Value:
    """A Python value as the database holds it."""
    try:
        return column.store(value)
    except (TypeError, ValueError) as error:
        shown = f"{value!r:.80}"
        raise _refused(shape, column.name, f"it cannot hold {shown}: {error}", "wrong_value") from error


def _refused(shape: Shape, field: str, message: str, code: str) -> Invalid:
    return Invalid(f"{shape.name}.{field}: {message}", code=code, entity=shape.name, field=field)
