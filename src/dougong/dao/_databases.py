"""The seam between entities and many databases that divide the keys between them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from dougong.store import Store, Tx, Value

__all__ = ["OWNED", "Databases", "Divided"]

R = TypeVar("R")

OWNED = "{owned}"
"""Stands in SQL where the buckets of the database that is asked are listed."""


class Divided(Protocol):
    """What a `DAO` takes in the place of a `Store`: a sharded store is one.

    Operations on one key go to that key's database, `get_many` and `create_many` run as one unit per database, and
    `find`, `count` and `stream` ask all of them, but only with `scatter=True`.
    """

    @property
    def dialect(self) -> str:
        """`sqlite`, `mysql` or `postgresql`."""

    def divided(self, table: str, key: str, bucket: str) -> Databases:
        """The databases as one table needs them. `key`: its primary key, by whose bucket its rows are placed; `bucket`:
        the column that says which, empty for `key % 128`.
        """


class Databases(Protocol):
    """Where the rows of one table are. Keys are given as they are held: a UUID as text."""

    @property
    def bucket_sql(self) -> str:
        """A row's bucket."""

    def store_of(self, key: Value) -> Store:
        """The rows of one key. That its database is the right one, when it is used, is its own business."""

    async def bucket_of(self, key: Value) -> int:
        """For the bucket column."""

    async def write_many(self, keys: Sequence[Value], unit: Callable[[Tx, list[int]], Awaitable[R]]) -> list[R]:
        """A unit in each database that has some of the keys, given their positions.

        One of several may fail, and is then raised; what the others did stays done.
        """

    async def read_many(self, keys: Sequence[Value], unit: Callable[[Tx, list[int]], Awaitable[R]]) -> list[R]:
        """The same for reading. Keys that cannot have rows are left out."""

    async def ask_all(self, question: Callable[[Store, str], Awaitable[R]]) -> list[R]:
        """Every database, with its own buckets as in `bucket IN (...)`; one that fails, fails the whole."""
