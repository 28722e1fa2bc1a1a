"""What a table's row is in Python: the class alone. `_shape` makes a table of it, once somebody uses it."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

__all__ = ["Declared", "Entity"]


class Declared(msgspec.Struct, frozen=True):
    """What the class line says."""

    table: str
    key: str
    version: str
    unique: dict[str, tuple[str, ...]]
    bucket: str = ""


class _EntityMeta(msgspec.StructMeta):
    """Takes the table's part out of the class line before msgspec reads the rest."""

    def __new__(
        mcls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        table: str = "",
        key: str = "id",
        version: str = "",
        unique: Mapping[str, Sequence[str]] | None = None,
        bucket: str = "",
        **options: Any,
    ) -> Any:
        made: Any = super().__new__(mcls, name, bases, namespace, **options)
        if table:
            names = {index: tuple(columns) for index, columns in (unique or {}).items()}
            made.__declared__ = Declared(table, key, version, names, bucket)
        return made


@typing.dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Entity(msgspec.Struct, metaclass=_EntityMeta, frozen=True):
    """A row: fields are columns, in order.

        class User(Entity, table="users", version="version", unique={"users_email": ["email"]}):
            id: int
            email: str
            joined: datetime
            version: int = 1

    `key` names the primary key (default `id`). `version` names an integer that `update` checks and counts up. `unique`
    names the table's unique indexes, so that a `Conflict` can say which one (on a sharded store they hold within each
    database: see `UniqueIndex`). `bucket` names an integer that a DAO over a sharded store fills with the bucket of the
    key; without it, that is `key % 128`. Frozen: change a copy with
    `msgspec.structs.replace`.
    """

    __declared__: ClassVar[Declared]
    __shape__: ClassVar[object]
    """The table it makes, once somebody has asked `_shape.shape_of`."""
