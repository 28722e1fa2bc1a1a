"""SQL text for one entity on one dialect, written once per shape and kept.

What shapes the text (columns, operators, how many values) is the cache's key; values only ever travel as parameters.
Names are an entity's (`shape_of` lets only letters, digits and `_` through) and always quoted, operators come from a
table. That is all the SQL there is here: a library that writes any would cost each process 11 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from dougong.dao._databases import OWNED
from dougong.dao._page import Directions
from dougong.dao._shape import Shape
from dougong.dao._where import Part

__all__ = ["DIALECTS", "Statements"]

KEPT_MAX = 1000
# SQLite takes "name" for text when there is no such column; `name` never.
_QUOTES = {"sqlite": "`", "mysql": "`", "postgresql": '"'}
DIALECTS = tuple(_QUOTES)
_COMPARISONS = frozenset({"=", "!=", ">=", "<=", ">", "<"})
_NOTHING = "0 = 1"


class Statements:
    """The statements of one entity on one dialect. TypeError for a dialect that is none."""

    def __init__(self, shape: Shape, dialect: str) -> None:
        if dialect not in _QUOTES:
            raise TypeError(f"no SQL dialect {dialect!r}; there are {', '.join(DIALECTS)}")
        self._quote = _QUOTES[dialect]
        self._kept: dict[Hashable, str] = {}
        names = [column.name for column in shape.columns]
        others = [name for name in names if name != shape.key.name]
        table = self._table = self._quoted(shape.table)
        key = self._key = f"{self._column(shape.key.name)} = ?"
        columns = ", ".join(map(self._quoted, names))
        self._select = f"SELECT {', '.join(map(self._column, names))} FROM {table}"  # noqa: S608 (an entity's names)
        self.insert = f"INSERT INTO {table} ({columns}) VALUES ({_marks(len(names))})"  # noqa: S608 (as above)
        self.get = f"{self._select} WHERE {key}"
        self.delete = f"DELETE FROM {table} WHERE {key}"  # noqa: S608 (as above)
        self.exists = f"SELECT 1 FROM {table} WHERE {key}"  # noqa: S608 (as above)
        version = shape.version.name if shape.version is not None else ""
        sets = [f"{self._quoted(name)} = ?" for name in others or names]
        self.update = f"UPDATE {table} SET {', '.join(sets)} WHERE {key}"  # noqa: S608 (as above)
        self.overwrite = self.update
        """As `update`, but whatever the version, which is counted up."""
        if version:
            self.update += f" AND {self._column(version)} = ?"
            sets[others.index(version)] = f"{self._quoted(version)} = {self._column(version)} + 1"
            self.overwrite = f"UPDATE {table} SET {', '.join(sets)} WHERE {key}"  # noqa: S608 (as above)
        self._key_name = shape.key.name

    def get_many(self, count: int) -> str:
        return self._keep(
            ("get_many", count), lambda: f"{self._select} WHERE {self._condition(self._key_name, 'in', count)}"
        )

    def count(self, parts: tuple[Part, ...], *, owned: str = "") -> str:
        """`owned`: SQL of a row's bucket, to count the database's own rows only (see `OWNED`)."""
        return self._keep(
            ("count", parts, owned),
            lambda: f"SELECT count(*) FROM {self._table}" + self._where(parts, owned),  # noqa: S608 (as above)
        )

    def find(self, parts: tuple[Part, ...], order: Directions, *, after: bool, owned: str = "") -> str:
        """Parameters: those of the conditions, those of `after` (see `keyset_parameters`), the limit."""

        def make() -> str:
            where = self._where(parts, owned, *([self._behind(order)] if after else []))
            ordered = ", ".join(self._column(name) + (" DESC" if down else " ASC") for name, down in order)
            return f"{self._select}{where} ORDER BY {ordered} LIMIT ?"

        return self._keep(("find", parts, order, after, owned), make)

    def _where(self, parts: tuple[Part, ...], owned: str, *more: str) -> str:
        conditions = [self._condition(*part) for part in parts]
        if owned:
            conditions.append(f"{owned} IN ({OWNED})")
        conditions += more
        return f" WHERE {' AND '.join(conditions)}" if conditions else ""

    def _condition(self, name: str, operator: str, count: int) -> str:
        column = self._column(name)
        if operator == "null":
            return f"{column} IS NULL"
        if operator == "not null":
            return f"{column} IS NOT NULL"
        if operator == "in":
            return f"{column} IN ({_marks(count)})" if count else _NOTHING
        assert operator in _COMPARISONS, operator
        return f"{column} {operator} ?"

    def _behind(self, order: Directions) -> str:
        """What comes after a row in `order`: (a, b) > (?, ?), written out where directions differ."""
        columns = [self._column(name) for name, _ in order]
        signs = ["<" if down else ">" for _, down in order]
        if len(set(signs)) == 1:
            return f"({', '.join(columns)}) {signs[0]} ({_marks(len(columns))})"
        ways = (
            " AND ".join([*(f"{column} = ?" for column in columns[:place]), f"{columns[place]} {signs[place]} ?"])
            for place in range(len(columns))
        )
        return f"({' OR '.join(f'({way})' for way in ways)})"

    def _quoted(self, name: str) -> str:
        return f"{self._quote}{name}{self._quote}"

    def _column(self, name: str) -> str:
        return f"{self._table}.{self._quoted(name)}"

    def _keep(self, shape: Hashable, make: Callable[[], str]) -> str:
        text = self._kept.get(shape)
        if text is None:
            if len(self._kept) >= KEPT_MAX:
                self._kept.clear()
            text = self._kept[shape] = make()
        return text


def _marks(count: int) -> str:
    return ", ".join("?" * count)
