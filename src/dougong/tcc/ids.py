"""Ids of transactions: how far apart they lie, and as text for a column."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

__all__ = ["ids_json", "spread"]

_encode = msgspec.json.encode


def spread(ids: Sequence[int]) -> tuple[int, int, int]:
    """(lowest, highest, width of the range they lie in)."""
    low, high = min(ids), max(ids)
    return low, high, high - low + 1


def ids_json(ids: Sequence[int]) -> str:
    """Ids as text, for a column."""
    return _encode(ids).decode()
