"""Exact numbers from servers become what SQLite gives: whole ones `int`, others `float`."""

from __future__ import annotations

from decimal import Decimal

__all__ = ["plain_number"]


def plain_number(value: Decimal) -> int | float:
    """A sum of whole numbers is whole; who keeps money in a DECIMAL column wants whole cents or text instead."""
    return int(value) if value.as_tuple().exponent == 0 else float(value)
