"""What a table's row is in Python."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec
import sqlalchemy as sa

from dougong.dao._columns import Column, column_for

__all__ = ["Entity", "Shape", "shape_of"]


# Quoted where they are reserved words; anything else in a name is more likely an accident, or somebody else's text.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


class _Declared(msgspec.Struct, frozen=True):
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
            made.__declared__ = _Declared(table, key, version, names, bucket)
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

    __declared__: ClassVar[_Declared]
    __shape__: ClassVar[Shape]


class Shape(msgspec.Struct, frozen=True):
    """An entity as a table; worked out once per class."""

    name: str
    table: sa.Table
    columns: tuple[Column, ...]
    by_name: dict[str, Column]
    key: Column
    version: Column | None
    bucket: Column | None
    unique: dict[str, tuple[str, str]]
    """What an engine calls a unique constraint (`users.email`, `PRIMARY`) → the index's own name and its fields."""


def shape_of(entity: type[Entity]) -> Shape:
    """The shape of an entity class; TypeError names class, field and remedy when it has none."""
    known = entity.__dict__.get("__shape__")
    if known is not None:
        return typing.cast(Shape, known)
    declared: _Declared | None = getattr(entity, "__declared__", None)
    if declared is None:
        raise TypeError(f"{entity.__name__} names no table; write class {entity.__name__}(Entity, table=...)")
    hints = typing.get_type_hints(entity, include_extras=True)
    columns = tuple(column_for(entity.__name__, name, hints[name]) for name in entity.__struct_fields__)
    by_name = {each.name: each for each in columns}
    for what, name in (("key", declared.key), ("version", declared.version), ("bucket", declared.bucket)):
        if name and name not in by_name:
            raise TypeError(f"{entity.__name__}: {what}={name!r} is no field of it")
        if name and by_name[name].nullable:
            raise TypeError(f"{entity.__name__}: {what}={name!r} must not be None")
    if declared.version and hints[declared.version] is not int:
        raise TypeError(f"{entity.__name__}: version={declared.version!r} must be an int: it is counted up")
    if declared.bucket and hints[declared.bucket] is not int:
        raise TypeError(f"{entity.__name__}: bucket={declared.bucket!r} must be an int")
    for index, names in declared.unique.items():
        for name in names:
            if name not in by_name:
                raise TypeError(f"{entity.__name__}: unique index {index!r} names {name!r}, which is no field of it")
    for name in (declared.table, *by_name, *declared.unique):
        if not _NAME.fullmatch(name):
            raise TypeError(f"{entity.__name__}: {name!r} is no name for a table, column or index: letters, digits, _")
    table = sa.Table(
        declared.table,
        sa.MetaData(),
        *(
            sa.Column(
                each.name,
                each.sql,
                primary_key=each.name == declared.key,
                nullable=each.nullable,
                autoincrement=False,
            )
            for each in columns
        ),
        *(sa.UniqueConstraint(*names, name=index) for index, names in declared.unique.items()),
        mysql_engine="InnoDB",
    )
    unique: dict[str, tuple[str, str]] = {}
    for index, names in (("primary_key", (declared.key,)), *declared.unique.items()):
        known_as = ["PRIMARY", f"{declared.table}_pkey"] if index == "primary_key" else [index]
        known_as.append(", ".join(f"{declared.table}.{name}" for name in names))  # SQLite names the columns
        unique.update(dict.fromkeys(known_as, (index, ", ".join(names))))
    version = by_name[declared.version] if declared.version else None
    bucket = by_name[declared.bucket] if declared.bucket else None
    shape = Shape(entity.__name__, table, columns, by_name, by_name[declared.key], version, bucket, unique)
    entity.__shape__ = shape
    return shape
