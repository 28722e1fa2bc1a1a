"""The daily sales report: what was ordered on a day, by currency and by what became of it, as CSV and as HTML."""

from __future__ import annotations

import csv
import datetime as dt
import html
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

import msgspec

from dougong.store import Row, Store
from shop.orders._contract import Line

__all__ = ["Sales", "add_up", "sales_of", "to_csv", "to_html", "write_atomically"]

_COLUMNS = ("currency", "state", "orders", "items", "total")
_AT_ONCE = 5000
"""Orders read in one step: the loop is others' too."""

_decode_lines = msgspec.json.Decoder(list[Line]).decode


class Sales(msgspec.Struct, frozen=True):
    """Orders of one currency that stand in one state."""

    currency: str
    state: str
    orders: int
    items: int
    total_minor: int

    def cells(self) -> tuple[str, ...]:
        """As shown."""
        total = f"{self.total_minor // 100}.{self.total_minor % 100:02}"
        return self.currency, self.state, str(self.orders), str(self.items), total


async def sales_of(store: Store, day: dt.date) -> list[Sales]:
    """What was ordered between midnight and midnight, UTC."""
    begin = dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC)
    since_us = int(begin.timestamp()) * 1_000_000
    rows: list[Row] = []
    after = 0
    while True:
        page = await store.fetch_all(
            "SELECT id, created_us, currency, state, total_minor, lines FROM orders WHERE id > ? ORDER BY id LIMIT ?",
            (after, _AT_ONCE),
        )
        if not page:
            return add_up(rows)
        after = cast(int, page[-1][0])
        rows += [row[2:] for row in page if since_us <= cast(int, row[1]) < since_us + 86_400_000_000]


def add_up(rows: Iterable[Row]) -> list[Sales]:
    """(currency, state, total_minor, lines) of orders, added up."""
    orders: Counter[tuple[str, str]] = Counter()
    items: Counter[tuple[str, str]] = Counter()
    totals: Counter[tuple[str, str]] = Counter()
    for currency, state, total_minor, lines in rows:
        key = str(currency), str(state)
        orders[key] += 1
        items[key] += sum(line.quantity for line in _decode_lines(cast(str, lines)))
        totals[key] += cast(int, total_minor)
    return [Sales(*key, orders[key], items[key], totals[key]) for key in sorted(orders)]


def to_csv(sales: Sequence[Sales]) -> str:
    """With a line of column names."""
    text = io.StringIO()
    csv.writer(text).writerows([_COLUMNS, *(row.cells() for row in sales)])
    return text.getvalue()


def to_html(day: dt.date, sales: Sequence[Sales]) -> str:
    """One page with one table."""
    return "".join(_page(day, sales))


def _page(day: dt.date, sales: Sequence[Sales]) -> Iterator[str]:
    yield f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Sales of {day}</title>\n'
    yield f"<h1>Sales of {day}</h1>\n<table>\n<tr>{''.join(f'<th>{name}</th>' for name in _COLUMNS)}</tr>\n"
    for row in sales:
        yield f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row.cells())}</tr>\n"
    yield "</table>\n</html>\n"


def write_atomically(path: Path, text: str) -> None:
    """Whoever reads it finds the old file or the new one, whole, whatever is killed meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
