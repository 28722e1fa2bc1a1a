"""Rows and entities: by position, with the conversions worked out once per class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from dougong.dao._entity import Entity
from dougong.dao._where import to_value
from dougong.errors import Internal
from dougong.store import Row, Value

if TYPE_CHECKING:
    from dougong.dao._shape import Shape

__all__ = ["Rows"]

T = TypeVar("T", bound=Entity)


class Rows(Generic[T]):
    """Turns entities of one class into rows and back."""

    __slots__ = ("_entity", "_loads", "_shape", "_stores")

    def __init__(self, entity: type[T], shape: Shape) -> None:
        self._entity = entity
        self._shape = shape
        self._stores = [column.store for column in shape.columns]
        self._loads = [(place, column.load) for place, column in enumerate(shape.columns) if column.load is not None]

    def store(self, entity: T) -> list[Value]:
        """The row of an entity; `Invalid` names the field whose value cannot be held."""
        if type(entity) is not self._entity:
            raise TypeError(f"this DAO stores {self._shape.name}, not {type(entity).__name__}")
        values = msgspec.structs.astuple(entity)
        try:
            return [store(value) for store, value in zip(self._stores, values, strict=True)]
        except (TypeError, ValueError):
            # Once more, slowly, to say which field it was.
            return [to_value(self._shape, column, v) for column, v in zip(self._shape.columns, values, strict=True)]

    def load(self, row: Row) -> T:
        """The entity of a row; `Internal` (code `bad_row`) when something else than a DAO has written it."""
        if not self._loads:
            return self._entity(*row)
        values: list[object] = list(row)
        try:
            for place, load in self._loads:
                values[place] = load(values[place])
        except Exception as error:
            key = values[self._shape.columns.index(self._shape.key)]
            raise Internal(
                f"{self._shape.name} {key!r}: the database holds a row that is none: {error}; correct it by SQL",
                code="bad_row",
                entity=self._shape.name,
                key=str(key),
            ) from error
        return self._entity(*values)
