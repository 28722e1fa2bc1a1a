"""Conditions on many keys at once, in SQL that every engine understands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar, cast

from dougong.statemachine._protocol import Key

__all__ = ["MARKS_MAX", "keyed", "marks", "padded"]

K = TypeVar("K", bound=Key)
V = TypeVar("V")

MARKS_MAX = 1024
"""Keys in one statement."""
_STEP_MAX = 4


def marks(count: int) -> str:
    """`?, ?, ?`."""
    return ", ".join("?" * count)


def padded(values: Sequence[V]) -> list[V]:
    """As many as the next power of two, the last one repeated: few statements to prepare, the same answer."""
    size = 1 << (len(values) - 1).bit_length()
    return [*values, *([values[-1]] * (size - len(values)))]


def keyed(column: str, keys: Sequence[K]) -> Iterator[tuple[str, Sequence[Key], Sequence[K]]]:
    """(condition, its parameters, the keys it covers), covering all.

    Evenly spaced integers, as freshly drawn ids are, are one range: half the price of a list.
    """
    if type(keys[0]) is int and len(keys) > 3:
        numbers = sorted(cast("Sequence[int]", keys))
        low, high = numbers[0], numbers[-1]
        step = (high - low) // (len(numbers) - 1)
        if 1 <= step <= _STEP_MAX and numbers == list(range(low, high + 1, step)):
            if step == 1:
                yield f"{column} BETWEEN ? AND ?", (low, high), keys
            else:
                yield f"{column} BETWEEN ? AND ? AND ({column} - ?) % ? = 0", (low, high, low, step), keys
            return
        keys = cast("Sequence[K]", numbers)
    for start in range(0, len(keys), MARKS_MAX):
        some = keys[start : start + MARKS_MAX]
        listed = padded(some)
        yield f"{column} IN ({marks(len(listed))})", listed, some
