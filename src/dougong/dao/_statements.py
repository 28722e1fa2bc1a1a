"""SQL text for one entity on one dialect, rendered by SQLAlchemy Core once per shape and kept.

Rendering costs hundreds of microseconds, running the text a few. What shapes the text (columns, operators, how many
values) is the cache's key; values only ever travel as parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.schema import CreateTable

from dougong.dao._entity import Entity, Shape, shape_of
from dougong.dao._where import Part, parameter, render
from dougong.store import Migration

__all__ = ["OWNED", "Directions", "Statements", "create_table_sql", "create_tables", "keyset_parameters"]

Directions = tuple[tuple[str, bool], ...]
"""Column and whether it descends, the key last."""

KEPT_MAX = 1000
OWNED = "{owned}"
"""Stands in the text where the buckets of the database that is asked are listed."""

DIALECTS: dict[str, Callable[..., sa.Dialect]] = {
    "sqlite": sqlite.dialect,
    "mysql": mysql.dialect,
    "postgresql": postgresql.dialect,
}
# Each server reads its own comment. Elsewhere blanks at the end of text do not count: "a" would equal "a ".
_BY_CODE_POINTS = " /*M! COLLATE utf8mb4_nopad_bin */ /*!80017 COLLATE utf8mb4_0900_bin */"


def _dialect(name: str) -> sa.Dialect:
    # All three take `?` here: the store's protocol speaks qmark, and each engine's adapter passes it on.
    if name not in DIALECTS:
        raise TypeError(f"no SQL dialect {name!r}; there are {', '.join(DIALECTS)}")
    return DIALECTS[name](paramstyle="qmark")


def create_table_sql(entity: type[Entity], dialect: str = "sqlite") -> str:
    """`CREATE TABLE ...` for an entity: the draft of its first migration."""
    sql = str(CreateTable(shape_of(entity).table).compile(dialect=_dialect(dialect))).strip()
    return sql + _BY_CODE_POINTS if dialect == "mysql" else sql


def create_tables(number: int, name: str, *entities: type[Entity]) -> Migration:
    """The migration that makes the entities' tables, on any engine.

    It says what the classes say now. Before a class with a table in use changes, write down what this gave
    (`create_table_sql`) and add a migration with the `ALTER TABLE`; the store refuses a step that was changed later.
    """
    return Migration(
        number,
        name,
        "",
        {dialect: ";\n\n".join(create_table_sql(entity, dialect) for entity in entities) for dialect in DIALECTS},
    )


class Statements:
    """The statements of one entity on one dialect."""

    def __init__(self, shape: Shape, dialect: str) -> None:
        self._shape = shape
        self._table = shape.table
        self._key: sa.Column[Any] = shape.table.c[shape.key.name]
        self._dialect = _dialect(dialect)
        self._kept: dict[Hashable, str] = {}
        table, key = self._table, self._key
        everything = {column.name: parameter() for column in shape.columns}
        others: dict[str, Any] = {column.name: parameter() for column in shape.columns if column is not shape.key}
        self.insert = self._text(table.insert().values(everything))
        self.get = self._text(table.select().where(key == parameter()))
        self.delete = self._text(table.delete().where(key == parameter()))
        self.exists = self._text(sa.select(sa.literal_column("1")).select_from(table).where(key == parameter()))
        update = table.update().where(key == parameter())
        version = table.c[shape.version.name] if shape.version is not None else None
        self.overwrite = self._text(update.values(others or everything))
        """As `update`, but whatever the version, which is counted up."""
        self.update = self.overwrite
        if version is not None:
            self.update = self._text(update.values(others).where(version == parameter()))
            counted = {**others, version.name: version + sa.literal_column("1")}
            self.overwrite = self._text(update.values(counted))

    def get_many(self, count: int) -> str:
        return self._keep(
            ("get_many", count),
            lambda: self._table.select().where(self._key.in_([parameter() for _ in range(count)])),
        )

    def count(self, parts: tuple[Part, ...], *, owned: str = "") -> str:
        """`owned`: SQL of a row's bucket, to count the database's own rows only (see `OWNED`)."""

        def make() -> sa.Select[Any]:
            query = sa.select(sa.func.count()).select_from(self._table)
            return query.where(*render(self._shape, parts), *_of_own(owned))

        return self._keep(("count", parts, owned), make)

    def find(self, parts: tuple[Part, ...], order: Directions, *, after: bool, owned: str = "") -> str:
        """Parameters: those of the conditions, those of `after` (see `keyset_parameters`), the limit."""

        def make() -> sa.Select[Any]:
            query = self._table.select().where(*render(self._shape, parts), *_of_own(owned))
            if after:
                query = query.where(self._behind(order))
            columns = self._table.c
            query = query.order_by(*(columns[name].desc() if down else columns[name].asc() for name, down in order))
            # The offset is said as text: SQLite's dialect would add a parameter for the 0.
            return query.limit(parameter()).offset(sa.literal_column("0"))

        return self._keep(("find", parts, order, after, owned), make)

    def _behind(self, order: Directions) -> sa.ColumnElement[bool]:
        """What comes after a row in `order`: (a, b) > (?, ?), written out where directions differ."""
        columns = [self._table.c[name] for name, _ in order]
        directions = {down for _, down in order}
        if len(directions) == 1:
            row, values = sa.tuple_(*columns), sa.tuple_(*(parameter() for _ in columns))
            behind: sa.ColumnElement[bool] = row < values if directions == {True} else row > values
            return behind
        return sa.or_(
            *(
                sa.and_(
                    *(columns[before] == parameter() for before in range(place)),
                    columns[place] < parameter() if order[place][1] else columns[place] > parameter(),
                )
                for place in range(len(order))
            )
        )

    def _keep(self, shape: Hashable, make: Callable[[], sa.Executable]) -> str:
        text = self._kept.get(shape)
        if text is None:
            if len(self._kept) >= KEPT_MAX:
                self._kept.clear()
            text = self._kept[shape] = self._text(make())
        return text

    def _text(self, statement: Any) -> str:
        return str(statement.compile(dialect=self._dialect, compile_kwargs={"render_postcompile": True}))


def _of_own(bucket_sql: str) -> list[sa.ColumnElement[bool]]:
    return [sa.literal_column(f"{bucket_sql} IN ({OWNED})", sa.Boolean)] if bucket_sql else []


def keyset_parameters(order: Directions, values: list[Any]) -> list[Any]:
    """The parameters of `_behind` for one row's values."""
    if len({down for _, down in order}) == 1:
        return values
    return [value for place in range(len(order)) for value in values[: place + 1]]
