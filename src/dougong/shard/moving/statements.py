"""The SQL of a move, for one table on one engine. Names come from the schema, values are parameters."""

from __future__ import annotations

from collections.abc import Sequence

from dougong.shard.moving.capture import notes_table
from dougong.shard.moving.shapes import Shape
from dougong.store import Row, Tx, Value

__all__ = ["SIZES", "Statements"]

SIZES = (1, 8, 64, 512)
"""Keys in one statement: a batch is filled up with its last key, so that there are few texts."""


class Statements:
    """What is done with the rows of one table."""

    def __init__(self, shape: Shape, dialect: str) -> None:
        self.shape = shape
        self._dialect = dialect
        key = [f'"{column}"' for column in shape.key]
        names = ", ".join(f'"{column}"' for column in shape.columns)
        order, in_bucket = ", ".join(key), f"{shape.bucket_of}{shape.modulo} = ?"
        notes = notes_table(shape.table)
        holes = ", ".join("?" * len(shape.columns))
        verb = {"sqlite": "INSERT OR REPLACE", "mysql": "REPLACE", "postgresql": "INSERT"}[dialect]
        table = shape.table
        self.key = ", ".join(key)
        self.in_bucket = in_bucket
        self._rows = f"SELECT {names} FROM {table} WHERE {in_bucket}"  # noqa: S608 (names of the schema, here and below)
        self._order = f" ORDER BY {order} LIMIT ?"
        self._ends = f"SELECT {order} FROM {table}"  # noqa: S608
        self.put = f"{verb} INTO {table} ({names}) VALUES ({holes})"
        self.delete = f"DELETE FROM {table} WHERE {in_bucket}"  # noqa: S608
        self.notes = f"SELECT dougong_seq, {order} FROM {notes} WHERE dougong_bucket = ? ORDER BY dougong_seq LIMIT ?"  # noqa: S608
        self.count = f"SELECT count(*) FROM {notes} WHERE dougong_bucket = ?"  # noqa: S608
        self.strike = f"DELETE FROM {notes} WHERE dougong_seq = ?"  # noqa: S608
        self._behind = _compare(key, ">")
        self._up_to = _compare(key, "<=")

    async def window(self, tx: Tx, after: Sequence[Value], width: int) -> tuple[Value, ...] | None:
        """The key that comes `width` keys behind `after`, of whatever bucket; None when there are fewer."""
        where, values = (f" WHERE {self._behind}", _spread(after)) if after else ("", ())
        row = await tx.fetch_one(f"{self._ends}{where} ORDER BY {self.key} LIMIT 1 OFFSET ?", (*values, width - 1))
        return tuple(row) if row is not None else None

    async def rows(
        self, tx: Tx, bucket: int, after: Sequence[Value], up_to: Sequence[Value] | None, most: int
    ) -> list[Row]:
        """Rows of the bucket behind one key and up to another, in order, at most so many."""
        sql, values = self._rows, [bucket]
        for condition, bound in ((self._behind, after), (self._up_to, up_to)):
            if bound:
                sql += f" AND {condition}"
                values += _spread(bound)  # type: ignore[arg-type]
        return await tx.fetch_all(sql + self._order, (*values, most))

    async def rows_of(self, tx: Tx, bucket: int, keys: Sequence[Sequence[Value]]) -> list[Row]:
        """The rows of these keys that the bucket has."""
        found: list[Row] = []
        for condition, values in self._among(keys):
            found += await tx.fetch_all(f"{self._rows} AND {condition}", (bucket, *values))
        return found

    async def replace(self, tx: Tx, bucket: int, keys: Sequence[Sequence[Value]], rows: Sequence[Row]) -> None:
        """Have just these rows under these keys."""
        if len(keys) > len(rows) or self._dialect == "postgresql":
            for condition, values in self._among(keys):
                await tx.execute(f"{self.delete} AND {condition}", (bucket, *values))
        if self._dialect == "postgresql":  # what REPLACE does elsewhere: who has a unique value of theirs goes
            for columns in self.shape.unique:
                at = [self.shape.columns.index(column) for column in columns]
                condition = " AND ".join(f'"{column}" = ?' for column in columns)
                await tx.execute_many(
                    f"DELETE FROM {self.shape.table} WHERE {condition}",  # noqa: S608
                    [[row[place] for place in at] for row in rows if all(row[place] is not None for place in at)],
                )
        if rows:
            await tx.execute_many(self.put, rows)

    def key_of(self, row: Row) -> tuple[Value, ...]:
        """Of a row as `rows` gives it."""
        return tuple(row[place] for place in self.shape.key_at)

    def _among(self, keys: Sequence[Sequence[Value]]) -> list[tuple[str, list[Value]]]:
        one = "?" if len(self.shape.key) == 1 else f"({', '.join('?' * len(self.shape.key))})"
        left = self.key if len(self.shape.key) == 1 else f"({self.key})"
        parts = []
        for start in range(0, len(keys), SIZES[-1]):
            part = list(keys[start : start + SIZES[-1]])
            size = next(size for size in SIZES if size >= len(part))
            part += [part[-1]] * (size - len(part))
            listed = ", ".join([one] * size)
            if self._dialect == "sqlite" and len(self.shape.key) > 1:
                listed = f"VALUES {listed}"
            parts.append((f"{left} IN ({listed})", [value for key in part for value in key]))
        return parts


def _compare(key: Sequence[str], sign: str) -> str:
    """(a, b) > (?, ?) in words that every engine finds by an index; see `_spread` for the parameters."""
    strict = sign[0]
    last = f"{key[-1]} {sign} ?"
    for column in reversed(key[:-1]):
        last = f"{column} {strict}= ? AND ({column} {strict} ? OR ({column} = ? AND {last}))"
    return f"({last})" if len(key) > 1 else last


def _spread(bound: Sequence[Value]) -> list[Value]:
    values: list[Value] = [bound[-1]]
    for value in reversed(bound[:-1]):
        values = [value, value, value, *values]
    return values
