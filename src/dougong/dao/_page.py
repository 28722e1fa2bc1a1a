"""Pages by keyset: the cursor says behind which row to go on, not how many to skip."""

from __future__ import annotations

import base64
from typing import Any, Generic, TypeVar

import msgspec

from dougong.errors import Invalid
from dougong.store import Value

__all__ = ["Page", "decode_cursor", "encode_cursor"]

T = TypeVar("T")


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some rows in order; `after` is the cursor for the next page, None on the last one."""

    items: list[T]
    after: str | None


def encode_cursor(order: list[str], values: list[Value]) -> str:
    """Opaque to clients, and not secret: it holds the last row's values of the ordering columns."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode([order, values])).decode().rstrip("=")


def decode_cursor(order: list[str], cursor: str) -> list[Value]:
    """The values in a cursor made for this order; anything else is `Invalid` (code `bad_cursor`)."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        made_for, values = msgspec.msgpack.decode(raw, type=tuple[list[str], list[Any]])
    except (ValueError, msgspec.DecodeError):
        raise Invalid("the cursor is damaged; start from the first page", code="bad_cursor") from None
    if not all(isinstance(value, int | float | str | bytes) for value in values):
        raise Invalid("the cursor is damaged; start from the first page", code="bad_cursor")
    if made_for != order or len(values) != len(order):
        raise Invalid(
            f"the cursor was made for order {', '.join(made_for)}, not {', '.join(order)}; start from the first page",
            code="bad_cursor",
        )
    return values
