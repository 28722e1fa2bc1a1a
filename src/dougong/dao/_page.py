"""Pages by keyset: the cursor says behind which row to go on, not how many to skip."""

from __future__ import annotations

import base64
from typing import Any, Generic, TypeVar

import msgspec

from dougong.errors import Invalid
from dougong.store import Value

__all__ = ["Directions", "Page", "decode_cursor", "encode_cursor", "keyset_parameters"]

T = TypeVar("T")

Directions = tuple[tuple[str, bool], ...]
"""Column and whether it descends, the key last."""


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some rows in order; `after` is the cursor for the next page, None on the last one."""

    items: list[T]
    after: str | None


def encode_cursor(order: list[str], values: list[Value]) -> str:
    """Opaque to clients, but not secret and not signed: it holds the last row's values of the ordering columns.

    Who changes it reads from another row on, within the same conditions.
    """
    return base64.urlsafe_b64encode(msgspec.msgpack.encode([order, values])).decode().rstrip("=")


def decode_cursor(order: list[str], held: list[type], cursor: str) -> list[Value]:
    """The values, of these types, in a cursor made for this order; anything else is `Invalid` (code `bad_cursor`)."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        made_for, values = msgspec.msgpack.decode(raw, type=tuple[list[str], list[Any]])
    except (ValueError, msgspec.DecodeError):
        raise _bad("is damaged") from None
    if made_for != order:
        raise _bad(f"was made for order {', '.join(made_for)}, not {', '.join(order)}")
    if [type(value) for value in values] != held or not all(map(_fits, values)):
        raise _bad("is damaged")
    return values


def _fits(value: Value) -> bool:
    """Whether every engine takes it."""
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return "\0" not in value if isinstance(value, str) else True


def _bad(what: str) -> Invalid:
    return Invalid(f"the cursor {what}; start from the first page", code="bad_cursor")


def keyset_parameters(order: Directions, values: list[Any]) -> list[Any]:
    """The parameters of `Statements.find` for one row's values."""
    if len({down for _, down in order}) == 1:
        return values
    return [value for place in range(len(order)) for value in values[: place + 1]]
