"""The seam between what is the same for every database server and one server's driver.

An `Engine` makes `Link`s, single connections as bare as they come, and judges what its driver raised. Everything else
(group commit, reruns, reading, deadlines) is written once, on top of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from dougong.errors import Error
from dougong.store._protocol import Migration, Row, Value
from dougong.store._server_url import ServerOptions

__all__ = ["Engine", "Link", "Verdict"]


class Verdict(NamedTuple):
    """What a driver's error means."""

    fault: Error
    lost: bool = False
    """The connection is gone or must not be used again; whatever was not committed is undone."""
    again: bool = False
    """The transaction is undone through nobody's fault (a deadlock, a stale plan): running it again may work."""
    deferred: bool = False
    """A constraint that was checked only at commit: somebody in the group broke it, nobody knows who."""


class Link(Protocol):
    """One connection. Methods raise the driver's errors; SQL has `?` for parameters. One call at a time."""

    last_sql: str
    """The statement sent last, for messages."""
    guarded: bool
    """Undo a failed statement alone, where the server would otherwise give up the transaction (PostgreSQL)."""

    @property
    def usable(self) -> bool:
        """Whether it may be used (again)."""

    @property
    def failed(self) -> bool:
        """Whether the server refuses everything until the transaction is rolled back, because a statement failed."""

    async def control(self, sql: str) -> None:
        """Statements of ours, several separated by semicolons, without parameters and results: one round trip."""

    async def execute(self, sql: str, parameters: Sequence[Value]) -> int:
        """Run one statement; rows changed (for an UPDATE: rows found)."""

    async def execute_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> int:
        """Run one statement for many rows in as few round trips as there can be; rows changed in all."""

    async def fetch(self, sql: str, parameters: Sequence[Value]) -> list[Row]:
        """The rows of a query."""

    def abort(self) -> None:
        """Drop the connection, now and without a word; the server undoes what was not committed."""


class Engine(Protocol):
    """One kind of server and how to reach one database on it."""

    @property
    def options(self) -> ServerOptions:
        """Where it is, and the deadlines."""

    @property
    def begin(self) -> str:
        """Begin to write and take the turn: no two processes are past this at once on one database."""

    @property
    def begin_snapshot(self) -> str:
        """Begin to read one consistent state."""

    @property
    def refused(self) -> frozenset[str]:
        """First words of statements that are not a unit's business here."""

    async def connect(self, *, reads_only: bool = False) -> Link:
        """A new connection, set up; raises the driver's errors or ours."""

    async def prepare(self, link: Link) -> None:
        """When the store is opened: make sure that what is acknowledged will be synced; make what turns need."""

    def judge(self, error: BaseException, sql: str = "") -> Verdict:
        """What an error of the driver means; ours pass through."""

    async def migrate(self, link: Link, owner: str, migrations: Sequence[Migration], now_us: int) -> int:
        """Bring `owner` up to date on a connection of its own; how many steps that took."""
