"""Find the one item that makes a whole batch fail, without a call per item."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from dougong.errors import DeadlineExceeded, Overloaded, Unavailable

__all__ = ["in_halves"]

Item = TypeVar("Item")
R = TypeVar("R")


async def in_halves(
    items: Sequence[Item], work: Callable[[Sequence[Item]], Awaitable[R]]
) -> tuple[list[R], list[tuple[Item, Exception]]]:
    """Run `work` on all items at once; where it fails, on each half, down to the items that fail alone.

    Returns the results of the parts that worked, in order, and the culprits with their errors. k culprits among n items
    cost about k·log2(n) calls. An error that says nothing about the items (`Unavailable`, `Overloaded`,
    `DeadlineExceeded`) is raised at once; parts that had worked by then stay done.
    """
    results: list[R] = []
    culprits: list[tuple[Item, Exception]] = []
    parts: list[Sequence[Item]] = [items]
    while parts:
        part = parts.pop()
        try:
            results.append(await work(part))
        except (Unavailable, Overloaded, DeadlineExceeded):
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is, it is reported with its item)
            if len(part) == 1:
                culprits.append((part[0], error))
            else:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
    return results, culprits
