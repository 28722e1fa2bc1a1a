"""The user's own table: every statement about a machine's columns in it stands here.

Each change is a compare-and-set, one statement for all instances that go the same way: it names the state, the version
and the definition it expects, and the number of rows it changed says whether somebody else was there first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar, cast

from dougong.statemachine._protocol import Instance, Key
from dougong.statemachine.statements import keyed, marks
from dougong.store import Row, Tx, Value

__all__ = ["Rows"]

K = TypeVar("K", bound=Key)
COLUMNS = ("state", "state_version", "definition", "due_us")


class Rows(Generic[K]):
    """Statements over instances. Methods run inside a unit; nothing is remembered between units."""

    _compare = "state = ? AND state_version = ? AND definition = ?"
    """The compare of compare-and-set."""

    def __init__(self, table: str, key: str, *, reads: Sequence[str] = (), updated: str = "") -> None:
        self.table = table
        self.key = key
        self._reads = tuple(reads)
        self._select = f"SELECT {', '.join((key, *COLUMNS, *reads))} FROM {table} WHERE "  # noqa: S608
        touched = f", {updated} = ?" if updated else ""
        self._touched = bool(updated)
        self._update = f"UPDATE {table} SET state = ?, state_version = ?, due_us = ?{touched} WHERE "  # noqa: S608
        self._rewrite = f"UPDATE {table} SET state = ?, state_version = ?, definition = ?, due_us = ? WHERE "  # noqa: S608
        self._rearm = f"UPDATE {table} SET due_us = ? WHERE "  # noqa: S608

    async def read(self, tx: Tx, keys: Sequence[K]) -> dict[K, Instance[K]]:
        """The instances there are, by key."""
        found: dict[K, Instance[K]] = {}
        for condition, parameters, _ in keyed(self.key, keys):
            for row in await tx.fetch_all(self._select + condition, parameters):
                instance = self._instance(row)
                found[instance.key] = instance
        return found

    async def move(
        self,
        tx: Tx,
        keys: Sequence[K],
        expected: tuple[str, int, int],
        target: str,
        due_us: int | None,
        now_us: int,
    ) -> int:
        """Take instances out of `expected` (state, version, definition); how many were found in it."""
        changed = 0
        values: list[Value] = [target, expected[1] + 1, due_us]
        if self._touched:
            values.append(now_us)
        for condition, parameters, _ in keyed(self.key, keys):
            changed += await tx.execute(
                f"{self._update}{condition} AND {self._compare}", (*values, *parameters, *expected)
            )
        return changed

    async def rewrite(self, tx: Tx, old: Instance[K], new: Instance[K]) -> bool:
        """Bring an instance under a newer definition; False when somebody moved it meanwhile."""
        return bool(
            await tx.execute(
                f"{self._rewrite}{self.key} = ? AND {self._compare}",
                (new.state, new.version, new.definition, new.due_us, old.key, old.state, old.version, old.definition),
            )
        )

    async def due(self, tx: Tx, state: str, now_us: int, definition: int, limit: int) -> list[Instance[K]]:
        """Instances whose deadline in `state` has passed, the longest overdue first."""
        rows = await tx.fetch_all(
            f"{self._select}state = ? AND due_us <= ? AND definition <= ? ORDER BY due_us LIMIT ?",
            (state, now_us, definition, limit),
        )
        return [self._instance(row) for row in rows]

    async def overdue(self, tx: Tx, state: str, now_us: int, limit: int) -> int:
        """How many there are; counts no further than `limit`."""
        row = await tx.fetch_one(
            f"SELECT count(*) FROM (SELECT 1 FROM {self.table} WHERE state = ? AND due_us <= ? LIMIT ?) overdue",  # noqa: S608
            (state, now_us, limit),
        )
        assert row is not None
        return cast(int, row[0])

    async def beyond(self, tx: Tx, state: str, horizon_us: int, limit: int) -> list[Instance[K]]:
        """Instances due later than any deadline set now could be."""
        rows = await tx.fetch_all(
            f"{self._select}state = ? AND due_us > ? ORDER BY due_us DESC LIMIT ?", (state, horizon_us, limit)
        )
        return [self._instance(row) for row in rows]

    async def window(self, tx: Tx, after: K | None, size: int) -> K | None:
        """The key at the end of the next `size` instances; None when there are fewer."""
        since = "" if after is None else f"WHERE {self.key} > ? "
        row = await tx.fetch_one(
            f"SELECT {self.key} FROM {self.table} {since}ORDER BY {self.key} LIMIT 1 OFFSET {size - 1}",  # noqa: S608
            () if after is None else (after,),
        )
        return None if row is None else cast(K, row[0])

    async def stale(
        self, tx: Tx, after: K | None, until: K | None, definition: int, timed: Sequence[str]
    ) -> list[Instance[K]]:
        """Instances of older definitions, or without the deadline that their state (one of `timed`) has."""
        bounds = [f"{self.key} {sign} ? AND " for sign, key in ((">", after), ("<=", until)) if key is not None]
        parameters: list[Value] = [key for key in (after, until) if key is not None]
        parameters += (definition, definition, *timed) if timed else (definition,)
        untimed = f" OR (due_us IS NULL AND definition = ? AND state IN ({marks(len(timed))}))" if timed else ""
        rows = await tx.fetch_all(
            f"{self._select}{''.join(bounds)}(definition < ?{untimed}) ORDER BY {self.key}",
            parameters,
        )
        return [self._instance(row) for row in rows]

    async def rearm(self, tx: Tx, instance: Instance[K], due_us: int) -> bool:
        """Set another time for the deadline of an instance that still stands as read."""
        return bool(
            await tx.execute(
                f"{self._rearm}{self.key} = ? AND {self._compare} AND due_us = ?",
                (due_us, instance.key, instance.state, instance.version, instance.definition, instance.due_us),
            )
        )

    def _instance(self, row: Row) -> Instance[K]:
        key, state, version, definition, due_us, *rest = row
        if rest:
            columns = dict(zip(self._reads, rest, strict=True))
            return Instance(key, state, version, definition, due_us, columns)  # type: ignore[arg-type]
        return Instance(key, state, version, definition, due_us)  # type: ignore[arg-type]
