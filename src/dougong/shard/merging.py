"""Several databases' answers become one: rows by k-way merge, totals by adding up."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from functools import total_ordering
from itertools import islice
from typing import Any, NamedTuple, cast

from dougong.errors import Invalid
from dougong.shard.query import LIMIT_MAX, RowsPlan, TotalsPlan
from dougong.store import Row, Value

__all__ = ["Merged", "merge_rows", "merge_totals"]


class Merged(NamedTuple):
    """A page."""

    rows: list[Row]
    last: tuple[Value, ...] | None
    """Ordering values of its last row, when more rows follow."""
    short: list[str]
    """Databases all of whose rows lie before the end of the page: they may have more there, so ask again for more."""


def merge_rows(plan: RowsPlan, answers: Mapping[str, Sequence[Row]], *, offset: int, limit: int, asked: int) -> Merged:
    """One page of answers of up to `asked` rows each.

    `Invalid`: a database that sorts differently than the merge (another collation: code `order_differs`), a NULL among
    the ordering columns (`null_order`). Merging such answers would skip rows in silence.
    """
    descending = [down for _, down in plan.order]
    runs = {shard: _checked(plan, shard, rows, descending) for shard, rows in answers.items()}
    merged = list(islice(heapq.merge(*runs.values(), key=_first), plan.wanted))
    end = merged[-1][0] if len(merged) == plan.wanted else None
    short = [
        shard
        for shard, run in runs.items()
        if asked < plan.wanted and len(run) == asked and (end is None or run[-1][0] <= end)
    ]
    page = [row for _, row in merged[offset : offset + limit]]
    last = page[-1][plan.width :] if len(merged) > offset + limit else None
    return Merged([row[: plan.width] for row in page], last, short)


def _checked(plan: RowsPlan, shard: str, rows: Sequence[Row], descending: Sequence[bool]) -> list[tuple[Any, Row]]:
    """(sort key, row). All rows are looked at, not only those of the page: what was cut is cut by the same order."""
    keyed: list[tuple[Any, Row]] = []
    before: Any = None
    mixed = any(descending)
    for row in rows:
        values = row[plan.width :]
        if None in values:
            name = plan.order[values.index(None)][0]
            raise Invalid(
                f"column {name!r} is NULL in a row of {shard} and cannot order a merged answer; filter with"
                f" ({name!r}, '!=', None)",
                code="null_order",
            )
        key: Any = (
            tuple(_Down(value) if down else value for value, down in zip(values, descending, strict=True))
            if mixed
            else values
        )
        try:
            wrong = before is not None and key < before
        except TypeError:
            wrong = True
        if wrong:
            names = ", ".join(name for name, _ in plan.order)
            raise Invalid(
                f"database {shard} sorts by {names} differently than by code points and numbers; give text columns"
                " a binary collation (utf8mb4_bin, C)",
                code="order_differs",
            )
        keyed.append((key, row))
        before = key
    return keyed


def _first(pair: tuple[Any, Row]) -> Any:
    return pair[0]


@total_ordering
class _Down:
    """A value that sorts the other way round."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: _Down) -> bool:
        return bool(other.value < self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Down) and bool(other.value == self.value)

    __hash__ = None  # type: ignore[assignment]


def merge_totals(plan: TotalsPlan, answers: Mapping[str, Sequence[Row]]) -> list[Row]:
    """One row, or one per group in the groups' order as far as they have one; at most 1000 groups."""
    groups: dict[Row, list[list[Value]]] = {}
    for rows in answers.values():
        for row in rows:
            groups.setdefault(row[: plan.groups], []).append(list(row))
    if len(groups) > LIMIT_MAX or any(len(rows) > LIMIT_MAX for rows in answers.values()):
        raise Invalid(f"more than {LIMIT_MAX} groups; filter, or group by fewer columns", code="too_many_groups")
    return [_totals(plan, groups[group]) for group in sorted(groups, key=_sortable)]


def _totals(plan: TotalsPlan, rows: Sequence[Sequence[Value]]) -> Row:
    result: list[Value] = []
    for total in plan.totals:
        column = [row[total.at] for row in rows]
        if total.function == "":
            result.append(column[0])
        elif total.function == "count":
            result.append(_sum(column) or 0)
        elif total.function == "sum":
            result.append(_sum(column))
        elif total.function == "avg":
            everything, count = _sum(column), _sum([row[total.at + 1] for row in rows])
            result.append(everything / count if everything is not None and count else None)
        else:
            present = [value for value in column if value is not None]
            pick: Any = min if total.function == "min" else max
            result.append(cast("Value", pick(present)) if present else None)
    return tuple(result)


def _sum(column: Sequence[Value]) -> int | float | None:
    """As SQL adds up: NULLs aside, and NULL when there is nothing else."""
    present = [value for value in column if isinstance(value, int | float)]
    return sum(present) if present else None


def _sortable(group: Row) -> tuple[tuple[int, Any], ...]:
    """NULLs first, then numbers, then text, then bytes."""
    return tuple(
        (0, 0) if v is None else (1, v) if isinstance(v, int | float) else (2, v) if isinstance(v, str) else (3, v)
        for v in group
    )
