"""Lists of values in SQL, the same on every engine: a mark for each, and few different statements for any number.

`IN (?, ?, ...)` with the number of marks rounded up to a power of two and the last value repeated, so that each
statement comes in a dozen sizes, which databases keep prepared. Arrays and JSON functions do the same on one engine
each; on SQLite, marks are as fast as `json_each` or faster at any length, and MariaDB runs an UPDATE whose ids come
from a subquery as a scan of the whole table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TypeVar

from dougong.store._protocol import Row, Tx, Value

__all__ = ["execute_with", "fetch_with"]

V = TypeVar("V", bound=Value)

MARKS_MAX = 4096
"""In one statement; longer lists take several."""


async def fetch_with(tx: Tx, sql: str, values: Sequence[V], before: Sequence[Value] = ()) -> list[Row]:
    """The rows of a query that ends its parameters with `IN ({ids})`; `before` are those in front of it. No values, no
    query.
    """
    rows: list[Row] = []
    for part in _parts(values):
        rows += await tx.fetch_all(_with_marks(sql, _size(len(part))), (*before, *_padded(part)))
    return rows


async def execute_with(tx: Tx, sql: str, values: Sequence[V], before: Sequence[Value] = ()) -> int:
    """Run a statement that ends its parameters with `IN ({ids})`; the number of rows changed. Values may repeat none
    when that matters.
    """
    changed = 0
    for part in _parts(values):
        changed += await tx.execute(_with_marks(sql, _size(len(part))), (*before, *_padded(part)))
    return changed


@lru_cache(maxsize=1024)
def _with_marks(sql: str, size: int) -> str:
    return sql.replace("{ids}", ", ".join("?" * size))


def _padded(values: Sequence[V]) -> Sequence[V]:
    missing = _size(len(values)) - len(values)
    return values if not missing else [*values, *[values[-1]] * missing]


def _parts(values: Sequence[V]) -> Iterator[Sequence[V]]:
    for start in range(0, len(values), MARKS_MAX):
        yield values[start : start + MARKS_MAX] if len(values) > MARKS_MAX else values


def _size(count: int) -> int:
    return 1 << (count - 1).bit_length()
