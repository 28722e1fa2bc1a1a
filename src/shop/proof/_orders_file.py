"""Orders from a CSV file: columns `user_id,sku,quantity` and optionally `idempotency_key` and `order`.

Rows with the same value in `order` are lines of one order; without that column each row is an order.
"""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec

from dougong.errors import Invalid
from shop.orders import Line, PlaceOrder

__all__ = ["read_orders"]

_REQUIRED = ("user_id", "sku", "quantity")


def read_orders(path: Path) -> list[PlaceOrder]:
    """Orders in the order of their first rows. Raises `Invalid` naming file, line and column of the first fault."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _read(path, csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Invalid(f"order file {path}: {error}", code="invalid_csv") from error


class _Draft(msgspec.Struct):
    """An order while its rows are read."""

    user_id: str
    key: str
    lines: list[Line]
    line_num: int


def _read(path: Path, reader: csv.DictReader[str]) -> list[PlaceOrder]:
    columns = reader.fieldnames or ()
    for name in _REQUIRED:
        if name not in columns:
            raise Invalid(f"order file {path}, line 1: column {name!r} is missing from the header", code="invalid_csv")
    drafts: dict[object, _Draft] = {}
    for row in reader:
        where = f"order file {path}, line {reader.line_num}"
        user_id, key = _user_id(where, row["user_id"]), row.get("idempotency_key") or ""
        line = _line(where, row)
        draft = drafts.setdefault(row.get("order") or reader.line_num, _Draft(user_id, key, [], reader.line_num))
        for column, here, there in (("user_id", user_id, draft.user_id), ("idempotency_key", key, draft.key)):
            if here != there:
                raise Invalid(
                    f"{where}, column {column!r}: {here!r} differs from {there!r} in line {draft.line_num} of the "
                    f"same order",
                    code="invalid_csv",
                )
        draft.lines.append(line)
    if not drafts:
        raise Invalid(f"order file {path}: there are no orders in it", code="invalid_csv")
    return [_order(path, draft) for draft in drafts.values()]


def _user_id(where: str, text: str | None) -> str:
    if not text or not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise Invalid(f"{where}, column 'user_id': {text!r} is not a user's id", code="invalid_csv")
    return text


def _line(where: str, row: dict[str, str]) -> Line:
    try:
        return msgspec.convert({"sku": row["sku"], "quantity": row["quantity"]}, Line, strict=False)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        column = path.rstrip("`")
        raise Invalid(f"{where}, column {column!r}: {row[column]!r}: {reason}", code="invalid_csv") from error


def _order(path: Path, draft: _Draft) -> PlaceOrder:
    wanted = {"user_id": draft.user_id, "lines": draft.lines, "idempotency_key": draft.key}
    try:
        return msgspec.convert(wanted, PlaceOrder, from_attributes=True)
    except msgspec.ValidationError as error:
        raise Invalid(f"order file {path}, line {draft.line_num}: {error}", code="invalid_csv") from error
