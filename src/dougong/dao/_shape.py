"""An entity as a table."""

from __future__ import annotations

import re
import typing

import msgspec

from dougong.dao._columns import Column, column_for
from dougong.dao._entity import Declared, Entity

__all__ = ["Shape", "shape_of"]

# Statements quote them; anything else in a name is more likely an accident, or somebody else's text.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


class Shape(msgspec.Struct, frozen=True):
    """An entity as a table; worked out once per class."""

    name: str
    table: str
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
    declared: Declared | None = getattr(entity, "__declared__", None)
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
    unique: dict[str, tuple[str, str]] = {}
    for index, names in (("primary_key", (declared.key,)), *declared.unique.items()):
        known_as = ["PRIMARY", f"{declared.table}_pkey"] if index == "primary_key" else [index]
        known_as.append(", ".join(f"{declared.table}.{name}" for name in names))  # SQLite names the columns
        unique.update(dict.fromkeys(known_as, (index, ", ".join(names))))
    version = by_name[declared.version] if declared.version else None
    bucket = by_name[declared.bucket] if declared.bucket else None
    shape = Shape(entity.__name__, declared.table, columns, by_name, by_name[declared.key], version, bucket, unique)
    entity.__shape__ = shape
    return shape
