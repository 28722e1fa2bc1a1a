"""Ids in SQL, the same on every engine: a mark for each, and few different statements however many there are.

`IN (?, ?, ...)` with the number of marks rounded up to a power of two and the last id repeated, so that each statement
comes in a dozen sizes, which databases keep prepared. Arrays and JSON functions do the same on one engine each; on
SQLite, marks are as fast as `json_each` or faster at any length, and MariaDB runs an UPDATE whose ids come from a
subquery as a scan of the whole table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import msgspec

from dougong.store import Row, Tx, Value

__all__ = ["MARKS_MAX", "execute_with_ids", "fetch_with_ids", "ids_json", "spread"]

MARKS_MAX = 4096
"""In one statement; longer lists take several."""

_encode = msgspec.json.encode


async def fetch_with_ids(tx: Tx, sql: str, ids: Sequence[int], before: Sequence[Value] = ()) -> list[Row]:
    """The rows of a query that ends its parameters with `IN ({ids})`; `before` are those in front of it."""
    rows: list[Row] = []
    for part in _parts(ids):
        rows += await tx.fetch_all(_with_marks(sql, len(part)), (*before, *_padded(part)))
    return rows


async def execute_with_ids(tx: Tx, sql: str, ids: Sequence[int], before: Sequence[Value] = ()) -> int:
    """Run a statement that ends its parameters with `IN ({ids})`; the number of rows changed. Ids may repeat none."""
    changed = 0
    for part in _parts(ids):
        changed += await tx.execute(_with_marks(sql, len(part)), (*before, *_padded(part)))
    return changed


def spread(ids: Sequence[int]) -> tuple[int, int, int]:
    """(lowest, highest, width of the range they lie in)."""
    low, high = min(ids), max(ids)
    return low, high, high - low + 1


def ids_json(ids: Sequence[int]) -> str:
    """Ids as text, for a column."""
    return _encode(ids).decode()


@lru_cache(maxsize=1024)
def _with_marks(sql: str, count: int) -> str:
    return sql.replace("{ids}", ", ".join("?" * _size(count)))


def _padded(ids: Sequence[int]) -> Sequence[int]:
    missing = _size(len(ids)) - len(ids)
    return ids if not missing else [*ids, *[ids[-1]] * missing]


def _parts(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    if len(ids) <= MARKS_MAX:
        if ids:
            yield ids
        return
    for start in range(0, len(ids), MARKS_MAX):
        yield ids[start : start + MARKS_MAX]


def _size(count: int) -> int:
    return 1 << (count - 1).bit_length()
