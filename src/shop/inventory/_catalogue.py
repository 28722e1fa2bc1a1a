"""The products an empty shop starts with: a CSV file of the operator's, or a made-up catalogue.

The CSV has a header line with the columns `sku,name,price_minor,currency,quantity`; `currency` may be left out (EUR).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import msgspec

from dougong.errors import Invalid
from shop.inventory._contract import PutProduct

__all__ = ["demo_products", "read_products"]

_ADJECTIVES = ("Oak", "Walnut", "Cedar", "Ash", "Maple", "Pine", "Birch", "Cherry", "Elm", "Larch")
_THINGS = ("bracket", "beam", "column", "dowel", "panel", "chair", "bench", "table", "frame", "shelf")


def demo_products(count: int = 1000, stock: int = 1_000_000) -> list[PutProduct]:
    """`count` products, `sku-0001` and up, each with `stock` pieces, at 1.00 to about 100.00."""
    return [
        PutProduct(
            sku=f"sku-{n:04d}",
            name=f"{_ADJECTIVES[n % 10]} {_THINGS[n // 10 % 10]} no. {n}",
            price_minor=100 + n * 7919 % 9900,
            restock=stock,
        )
        for n in range(1, count + 1)
    ]


def read_products(path: Path) -> list[PutProduct]:
    """Products of a CSV file. Raises `Invalid` naming file, line and column of the first fault."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(_rows(path, csv.DictReader(file)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Invalid(f"product file {path}: {error}", code="invalid_csv") from error


def _rows(path: Path, reader: csv.DictReader[str]) -> Iterator[PutProduct]:
    missing = {"sku", "name", "price_minor", "quantity"} - set(reader.fieldnames or ())
    if missing:
        raise Invalid(f"product file {path}: column {min(missing)!r} is missing from its header", code="invalid_csv")
    for row in reader:
        try:
            yield msgspec.convert(
                {
                    "sku": row["sku"],
                    "name": row["name"],
                    "price_minor": row["price_minor"],
                    "currency": row.get("currency") or "EUR",
                    "restock": row["quantity"],
                },
                PutProduct,
                strict=False,
            )
        except msgspec.ValidationError as error:
            raise Invalid(f"product file {path}, line {reader.line_num}: {error}", code="invalid_csv") from error
