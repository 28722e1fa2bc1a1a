"""New rows of `dougong_jobs`, of which many differ in little.

On SQLite a value costs a tenth of a microsecond to hand over, which for fifteen columns is as much as the row itself
costs. So there each statement is told once what its rows have in common. A server takes all of them in one message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain

from dougong.jobs.sql.step import Step
from dougong.store import Value

__all__ = ["insert_rows"]

_TOGETHER_MAX = 64


async def insert_rows(
    step: Step, common: str, own: str, rows: Mapping[tuple[Value, ...], Sequence[tuple[Value, ...]]]
) -> None:
    """`common` and `own` name columns; `rows` has the values of the former, and for each those of the latter."""
    if step.dialect != "sqlite":
        each = [(*values, *row) for values, alike in rows.items() for row in alike]
        await step.tx.execute_many(_values(f"{common}, {own}"), each)
        return
    for values, alike in rows.items():
        for part in _parts(alike):
            await step.tx.execute(_select(common, own, len(part)), (*values, *chain.from_iterable(part)))


@lru_cache(maxsize=64)
def _values(columns: str) -> str:
    return f"INSERT INTO dougong_jobs ({columns}) VALUES ({_marks(columns)})"  # noqa: S608 (names from here)


@lru_cache(maxsize=64)
def _select(common: str, own: str, rows: int) -> str:
    columns = ", ".join(f"column{number}" for number in range(1, own.count(",") + 2))
    values = ", ".join([f"({_marks(own)})"] * rows)
    return (
        f"INSERT INTO dougong_jobs ({common}, {own}) "  # noqa: S608 (names from here)
        f"SELECT {_marks(common)}, {columns} FROM (VALUES {values})"
    )


def _marks(columns: str) -> str:
    return ", ".join("?" * (columns.count(",") + 1))


def _parts(rows: Sequence[tuple[Value, ...]]) -> Iterator[Sequence[tuple[Value, ...]]]:
    """Parts of 2^n rows, so that there are few different statements, which stay prepared."""
    start = 0
    while left := len(rows) - start:
        size = min(_TOGETHER_MAX, 1 << (left.bit_length() - 1))
        yield rows[start : start + size]
        start += size
