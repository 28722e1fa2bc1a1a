"""The seam between everything that needs a database and the engines that are one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import msgspec

__all__ = ["Migration", "Row", "Store", "Tx", "Unit", "Value"]

Value = None | int | float | str | bytes
"""What a database holds. Everything else is a column processor's business (see `dao`)."""

Row = tuple[Value, ...]
R = TypeVar("R")


class Tx(Protocol):
    """A transaction in progress. Parameters are always bound, one `?` each; SQL text is never built from values."""

    async def execute(self, sql: str, parameters: Sequence[Value] = ()) -> int:
        """Run one statement; the number of rows it changed."""

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Value]]) -> int:
        """Run one statement once per row, at the driver's speed; the number of rows changed in all."""

    async def fetch_all(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        """All rows of a query."""

    async def fetch_one(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        """The first row of a query, or None."""


Unit = Callable[[Tx], Awaitable[R]]
"""A unit of work: reads and writes through the handle, awaits nothing else, returns a result or raises.

Raising undoes exactly this unit. A unit may run more than once (a deadlock, a neighbour's failure), so it must not
change anything outside the transaction.
"""


class Migration(msgspec.Struct, frozen=True):
    """One forward step of a schema. `sql` may hold several statements; its checksum is recorded when applied."""

    number: int
    name: str
    sql: str
    """For every engine that `variants` does not name; empty when it names all that are served."""
    variants: dict[str, str] = {}
    """SQL of its own for a dialect: `sqlite`, `mysql`, `postgresql`."""

    def sql_for(self, dialect: str) -> str:
        """What to run there; empty when this step was not written for it."""
        return self.variants.get(dialect, self.sql)


class Store(Protocol):
    """One database."""

    @property
    def name(self) -> str:
        """Short name for messages and metrics."""

    @property
    def dialect(self) -> str:
        """`sqlite`, `mysql` or `postgresql`."""

    async def write(self, unit: Unit[R]) -> R:
        """Run a unit and return its result once it is durable. Units in flight together share one commit.

        Raises what the unit raised; `Overloaded` when the queue is full; `Unavailable` when the database cannot write
        (full, read-only, locked, gone); nothing of the unit is then kept.
        """

    async def read(self, unit: Unit[R]) -> R:
        """Run a read-only unit on one consistent snapshot of committed data."""

    async def fetch_all(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        """One query outside any transaction."""

    async def fetch_one(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        """The first row of one query outside any transaction."""

    async def migrate(self, owner: str, migrations: Sequence[Migration]) -> int:
        """Apply what is missing, under a lock, in order; how many were applied. Owners number independently."""

    async def check(self) -> None:
        """Raise `Unavailable` when the database cannot be used now."""

    async def close(self) -> None:
        """Finish what was accepted, then close."""
