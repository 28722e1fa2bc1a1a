"""A question to many databases, and what may be asked of each so that the answers can be merged.

A query is a value, not SQL text: what it cannot say cannot be answered wrong. Rows: each database filters, orders and
cuts by itself, so a page of 50 reads at most 51 rows of each, and mostly its share of them. Totals: each database sends
partial sums, and avg is the sum of sums over the sum of counts. Everything else is refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import msgspec

from dougong.errors import Invalid
from dougong.shard.buckets import BUCKETS
from dougong.store import Value

__all__ = ["Condition", "Query", "RowsPlan", "ShardedTable", "Total", "TotalsPlan", "plan_of"]

Condition = tuple[str, str, "Value | tuple[Value, ...]"]
"""(column, operator, value), the operator one of = != < <= > >= in. A value of None asks for NULL with = and !=."""

LIMIT_MAX = 1000
IN_MAX = 512
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_TOTAL = re.compile(r"(\w+)\(\s*(\*|\w+)\s*\)")
_COMPARISONS = ("=", "!=", "<", "<=", ">", ">=")
_MERGEABLE = ("avg", "count", "max", "min", "sum")


class ShardedTable(msgspec.Struct, frozen=True):
    """A table that all databases have, and how its rows say which bucket they belong to."""

    name: str
    key: str = "id"
    """The primary key, by whose bucket its rows are placed."""
    bucket: str = ""
    """The column that holds the bucket. Empty: it is `key % 128`, which needs modulo routing."""

    @property
    def bucket_sql(self) -> str:
        return self.bucket or f"{self.key} % {BUCKETS}"


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Some columns of some rows in order, or totals over them."""

    table: ShardedTable
    select: tuple[str, ...]
    """Columns; or totals, `count(*)`, `count(x)`, `sum(x)`, `min(x)`, `max(x)`, `avg(x)`, and columns of `group`."""
    where: tuple[Condition, ...] = ()
    """All must hold."""
    order: tuple[str, ...] = ()
    """Columns, with `-` before those that descend; the key is always the last. Not with totals."""
    group: tuple[str, ...] = ()
    limit: int = 50
    offset: int = 0
    """Every database reads `offset + limit` rows: pages far behind are better asked for with a cursor."""


class Total(msgspec.Struct, frozen=True):
    """One selected column of a query for totals."""

    function: str
    """One of the mergeable ones, or empty for a column of `group`."""
    at: int
    """Its first place in the rows that databases send; `avg` has two there, sum and count."""


class RowsPlan(msgspec.Struct, frozen=True):
    """Rows in order. Databases send the selected columns, then those of the order."""

    sql: str
    """With `{owned}` where the owned buckets are listed, and `{rows}` where the number of rows stands."""
    parameters: tuple[Value, ...]
    order: tuple[tuple[str, bool], ...]
    """(column, descending): total, since the key is the last."""
    width: int
    """Number of selected columns."""
    wanted: int
    """Rows that one database may have to give: offset, limit, and one more to know whether there is another page."""

    def share(self, databases: int) -> int:
        """Rows to ask each for at first: what it has of a page when rows lie evenly, and as much as chance adds.

        When somebody turns out to have more, all are asked again, for all that can be wanted of them.
        """
        even = self.wanted // databases
        return min(self.wanted, even + 2 * math.isqrt(even) + 4) if databases > 1 else self.wanted


class TotalsPlan(msgspec.Struct, frozen=True):
    """One row, or one per group."""

    sql: str
    parameters: tuple[Value, ...]
    totals: tuple[Total, ...]
    groups: int
    """Databases send so many columns of `group` first."""


def plan_of(query: Query, after: Sequence[Value] | None = None) -> RowsPlan | TotalsPlan:
    """What to send to each database. `after`: values of the ordering columns of the last row seen.

    Raises `Invalid`: code `unmergeable` naming what cannot be merged, `bad_query` for what is no query at all.
    """
    table = query.table
    for name in (table.name, table.key, *filter(None, [table.bucket]), *query.group):
        _name(name)
    if not query.select:
        raise Invalid(f"a query of {table.name} selects nothing", code="bad_query")
    parts, parameters = _where(query)
    if query.group or any(not _NAME.fullmatch(column) for column in query.select):
        return _totals(query, parts, parameters, after)
    order = _total_order(query)
    if not 1 <= query.limit <= LIMIT_MAX or query.offset < 0:
        raise Invalid(
            f"limit is 1 to {LIMIT_MAX} and offset 0 or more, not {query.limit} and {query.offset}", code="bad_query"
        )
    if after is not None:
        if query.offset:
            raise Invalid("a page is found by its cursor or by an offset, not by both", code="bad_query")
        text, values = _behind(order, after)
        parts.append(text)
        parameters += values
    wanted = query.offset + query.limit + 1
    columns = ", ".join((*query.select, *(name for name, _ in order)))
    ordering = ", ".join(f"{name} DESC" if down else name for name, down in order)
    sql = f"SELECT {columns} FROM {table.name} WHERE {' AND '.join(parts)} ORDER BY {ordering} LIMIT {{rows}}"  # noqa: S608 (names are checked, values are parameters)
    return RowsPlan(sql, tuple(parameters), order, len(query.select), wanted)


def _totals(query: Query, parts: list[str], parameters: list[Value], after: Sequence[Value] | None) -> TotalsPlan:
    if query.order or query.offset or after is not None:
        raise _unmergeable(query, "totals in an order or in pages", "sort them where they arrive")
    sent = list(query.group)
    totals: list[Total] = []
    for text in query.select:
        if text in query.group:
            totals.append(Total("", query.group.index(text)))
            continue
        match = _TOTAL.fullmatch(text)
        if match is None:
            raise _unmergeable(query, text, f"select columns of group, and {', '.join(_MERGEABLE)} of one column")
        function, argument = match[1].lower(), match[2]
        if function not in _MERGEABLE or (argument == "*" and function != "count"):
            raise _unmergeable(query, text, f"there are {', '.join(_MERGEABLE)} of one column, and count(*)")
        totals.append(Total(function, len(sent)))
        if function == "avg":
            sent += [f"sum({argument})", f"count({argument})"]
        else:
            sent.append(f"{function}({argument})")
    grouping = f" GROUP BY {', '.join(query.group)}" if query.group else ""
    sql = f"SELECT {', '.join(sent)} FROM {query.table.name} WHERE {' AND '.join(parts)}{grouping}"  # noqa: S608 (as above)
    if query.group:
        sql += f" LIMIT {LIMIT_MAX + 1}"
    return TotalsPlan(sql, tuple(parameters), tuple(totals), len(query.group))


def _where(query: Query) -> tuple[list[str], list[Value]]:
    """Conditions as SQL, the owned buckets last: `{owned}` is filled in for each database."""
    parts: list[str] = []
    parameters: list[Value] = []
    for column, operator, value in query.where:
        _name(column)
        if operator == "in" and isinstance(value, tuple):
            if not 1 <= len(value) <= IN_MAX or None in value:
                raise Invalid(f"{column} in: 1 to {IN_MAX} values, none of them None", code="bad_query")
            padded = (*value, *(value[-1],) * ((1 << (len(value) - 1).bit_length()) - len(value)))
            parts.append(f"{column} IN ({', '.join('?' * len(padded))})")
            parameters += padded
        elif operator not in _COMPARISONS or isinstance(value, tuple):
            raise Invalid(
                f"{column} {operator}: there are {' '.join(_COMPARISONS)} with one value and in with several",
                code="bad_query",
            )
        elif value is None:
            if operator not in ("=", "!="):
                raise Invalid(f"{column} {operator} NULL holds for nothing", code="bad_query")
            parts.append(f"{column} IS {'NOT ' if operator == '!=' else ''}NULL")
        else:
            parts.append(f"{column} {operator} ?")
            parameters.append(value)
    parts.append(f"{query.table.bucket_sql} IN ({{owned}})")
    return parts, parameters


def _total_order(query: Query) -> tuple[tuple[str, bool], ...]:
    order = [(_name(word.removeprefix("-")), word.startswith("-")) for word in query.order]
    if all(name != query.table.key for name, _ in order):
        order.append((query.table.key, order[-1][1] if order else False))
    return tuple(order)


def _behind(order: Sequence[tuple[str, bool]], after: Sequence[Value]) -> tuple[str, list[Value]]:
    """(a, b) > (?, ?) written out, since columns may go in different directions: a > ? OR (a = ? AND b > ?)."""
    alternatives: list[str] = []
    parameters: list[Value] = []
    for at, (name, down) in enumerate(order):
        equal = [f"{before} = ?" for before, _ in order[:at]]
        alternatives.append(" AND ".join([*equal, f"{name} {'<' if down else '>'} ?"]))
        parameters += after[: at + 1]
    first, down = order[0]
    # The first column's bound once more by itself: an index is used for a range, seldom for alternatives.
    bound = f"{first} {'<=' if down else '>='} ?"
    return f"{bound} AND ({' OR '.join(f'({part})' for part in alternatives)})", [after[0], *parameters]


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise Invalid(f"{name!r} is no column or table name", code="bad_query")
    return name


def _unmergeable(query: Query, what: str, remedy: str) -> Invalid:
    return Invalid(
        f"{what} of {query.table.name} cannot be merged over several databases; {remedy}", code="unmergeable", what=what
    )
