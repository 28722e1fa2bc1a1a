"""The history of a database's machines: every statement about its tables, and how others follow it.

One row per transition, written in the unit that moves the instance, so it is never ahead of the truth nor behind it. It
is read by position. Units take turns until they have committed, on every engine and whatever process they are of, so
positions are in the order of the commits: one that was read never gets anything new below it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Generic, TypeVar, cast

import msgspec

from dougong.errors import Invalid
from dougong.statemachine._protocol import Key, Transition
from dougong.statemachine.event_data import decoded, encoded
from dougong.statemachine.rows import Rows
from dougong.statemachine.statements import MARKS_MAX, keyed, marks, padded
from dougong.store import Row, Store, Tx, Value

__all__ = ["History", "HistoryTable", "Page"]

K = TypeVar("K", bound=Key)

ROWS_AT_ONCE = 64
FORGET_ROWS = 1000
"""Rows dropped in one unit: it must not hold up the writer."""
STEP_ROWS = 20_000
"""How far a follower of some transitions looks in one read."""
_LOOK_AGAIN_S = 0.25  # another process on the same database writes history too, and wakes nobody here

_COLUMNS = "machine, instance, version, source, event, target, event_id, at_us, data"
_SELECT = "SELECT seq, instance, version, source, event, target, event_id, at_us, data FROM dougong_transitions "
_TEXT = {"mysql": "CHAR(191)"}


class HistoryTable(Generic[K]):
    """Statements over one machine's history. Methods run inside a unit."""

    def __init__(self, machine: str, key_type: type[K], dialect: str) -> None:
        self._machine = machine
        self._key_type = key_type
        self._text = _TEXT.get(dialect, "TEXT")
        self.number = 0

    async def register(self, tx: Tx) -> None:
        """Learn the number that stands for the machine, giving it one when it has none."""
        find = "SELECT number, key_type FROM dougong_machines WHERE name = ?"
        row = await tx.fetch_one(find, (self._machine,))
        if row is None:
            await tx.execute(
                "INSERT INTO dougong_machines (name, key_type) VALUES (?, ?)",
                (self._machine, self._key_type.__name__),
            )
            row = await tx.fetch_one(find, (self._machine,))
        assert row is not None
        if row[1] != self._key_type.__name__:
            raise Invalid(
                f"machine {self._machine!r} has keys of type {row[1]!r} in this database, not "
                f"{self._key_type.__name__}; a machine of another kind needs another name",
                code="wrong_key_type",
            )
        self.number = cast(int, row[0])

    async def append(self, tx: Tx, transitions: Sequence[Transition[K]]) -> None:
        """Record transitions one by one."""
        for start in range(0, len(transitions), ROWS_AT_ONCE):
            some = transitions[start : start + ROWS_AT_ONCE]
            values: list[Value] = []
            for t in some:
                values += (self.number, str(t.instance), t.version, t.source, t.event, t.target, t.id, t.at_us)
                values.append(encoded(t.data))
            row = f"({marks(9)})"
            size = 1
            while some:  # sizes are powers of two: few statements to prepare
                size = 1 << (len(some).bit_length() - 1)
                await tx.execute(
                    f"INSERT INTO dougong_transitions ({_COLUMNS}) VALUES {', '.join([row] * size)}",  # noqa: S608
                    values[: 9 * size],
                )
                some, values = some[size:], values[9 * size :]

    async def append_moved(
        self,
        tx: Tx,
        rows: Rows[K],
        keys: Sequence[K],
        expected: tuple[str, int, int],
        event: str,
        target: str,
        now_us: int,
    ) -> None:
        """Record one transition of each of `keys`, all of which were just taken the same way."""
        version = expected[1] + 1
        for condition, parameters, _ in keyed(rows.key, keys):
            await tx.execute(
                f"INSERT INTO dougong_transitions ({_COLUMNS}) SELECT ?, CAST({rows.key} AS {self._text}), ?, ?, ?, ?, "  # noqa: S608
                f"NULL, ?, NULL FROM {rows.table} WHERE {condition}",
                (self.number, version, expected[0], event, target, now_us, *parameters),
            )

    async def find(self, tx: Tx, ids: Sequence[str]) -> dict[tuple[K, str], Transition[K]]:
        """Transitions recorded under event ids, by (instance, id)."""
        found: dict[tuple[K, str], Transition[K]] = {}
        for start in range(0, len(ids), MARKS_MAX):
            some = padded(ids[start : start + MARKS_MAX])
            for row in await tx.fetch_all(
                f"{_SELECT}WHERE machine = ? AND event_id IN ({marks(len(some))})", (self.number, *some)
            ):
                t = self.transition(row)
                assert t.id is not None
                found[t.instance, t.id] = t
        return found

    async def having(self, tx: Tx, keys: Sequence[K], version: int) -> set[K]:
        """Which of these instances have made their transition number `version`."""
        having: set[K] = set()
        for start in range(0, len(keys), MARKS_MAX):
            some = padded([str(key) for key in keys[start : start + MARKS_MAX]])
            rows = await tx.fetch_all(
                f"SELECT instance FROM dougong_transitions WHERE machine = ? AND version = ? "  # noqa: S608
                f"AND instance IN ({marks(len(some))})",
                (self.number, version, *some),
            )
            having |= {self._key(row[0]) for row in rows}
        return having

    def transition(self, row: Row) -> Transition[K]:
        """A row as selected here."""
        seq, instance, version, source, event, target, id_, at_us, data = row
        return Transition(
            self._key(instance),
            version,  # type: ignore[arg-type]
            source,  # type: ignore[arg-type]
            event,  # type: ignore[arg-type]
            target,  # type: ignore[arg-type]
            at_us,  # type: ignore[arg-type]
            id_,  # type: ignore[arg-type]
            decoded(data),  # type: ignore[arg-type]
            seq,  # type: ignore[arg-type]
        )

    def _key(self, text: Value) -> K:
        return self._key_type(text)  # type: ignore[arg-type]


class Page(msgspec.Struct, Generic[K], frozen=True):
    """A stretch of the history."""

    items: Sequence[Transition[K]]
    position: int
    """Where the next stretch begins: store it with what `items` led to."""


class History(Generic[K]):
    """A machine's history, for those who follow or audit it."""

    def __init__(self, store: Store, table: HistoryTable[K]) -> None:
        self._store = store
        self._table = table
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Say that there may be news, after a unit of one's own that fired was written."""
        self._news.set()

    async def after(
        self, position: int, limit: int = 1000, *, wait_s: float = 0.0, targets: Sequence[str] = ()
    ) -> Page[K]:
        """Transitions after `position` (0: from the beginning), oldest first, at most `limit`.

        Waits up to `wait_s` for the first. Positions count over all machines of the database, so numbers are left out.
        With `targets`, only transitions that lead to one of these states; the others are stepped over, which costs a
        follower of few of them little.
        """
        give_up = asyncio.get_running_loop().time() + wait_s
        while True:
            self._news.clear()
            page = await self._read(position, limit, targets)
            stepped, position = page.position > position, page.position
            left_s = give_up - asyncio.get_running_loop().time()
            if page.items or left_s <= 0:
                return page
            if stepped:
                continue
            try:
                async with asyncio.timeout(min(left_s, _LOOK_AGAIN_S)):
                    await self._news.wait()
            except TimeoutError:
                pass

    async def span(self) -> tuple[int, int]:
        """Positions of the first and the last transition that are kept, of all machines; (0, 0) when none is."""
        rows = await self._store.fetch_all("SELECT min(seq), max(seq) FROM dougong_transitions")
        first, last = cast("tuple[int | None, int | None]", rows[0])
        return first or 0, last or 0

    async def of(self, instance: K, *, limit: int = 1000) -> list[Transition[K]]:
        """What an instance went through, in order, as far as it was not forgotten."""
        rows = await self._store.fetch_all(
            f"{_SELECT}WHERE machine = ? AND instance = ? ORDER BY version LIMIT ?",
            (self._table.number, str(instance), limit),
        )
        return [self._table.transition(row) for row in rows]

    async def forget(self, *, up_to: int | None = None, before_us: int | None = None) -> int:
        """Drop what all followers have stored: `up_to` a position, or older than a time; how many rows.

        Concerns all machines of the database. With a transition its event id is forgotten too. It gives way to other
        work: after each thousand rows it pauses for as long as they took.
        """
        if (up_to is None) == (before_us is None):
            raise Invalid("forget(up_to=...) or forget(before_us=...), one of the two", code="bad_arguments")
        dropped = 0
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            last = await self._last_to_forget(up_to, before_us)
            if last is None:
                return dropped
            dropped += await self._store.write(
                lambda tx, last=last: tx.execute("DELETE FROM dougong_transitions WHERE seq <= ?", (last,))  # type: ignore[misc]
            )
            await asyncio.sleep(loop.time() - started)

    async def _read(self, position: int, limit: int, targets: Sequence[str]) -> Page[K]:
        if limit < 1:
            raise Invalid(f"limit must be 1 or more, not {limit}", code="bad_limit")
        if targets:
            return await self._store.read(lambda tx: self._chosen(tx, position, limit, targets))
        rows = await self._store.fetch_all(
            "SELECT seq, instance, version, source, event, target, event_id, at_us, data, machine "
            "FROM dougong_transitions WHERE seq > ? ORDER BY seq LIMIT ?",
            (position, limit),
        )
        mine = [self._table.transition(row[:9]) for row in rows if row[9] == self._table.number]
        return Page(mine, cast(int, rows[-1][0]) if rows else position)

    async def _chosen(self, tx: Tx, position: int, limit: int, targets: Sequence[str]) -> Page[K]:
        last = await tx.fetch_one("SELECT max(seq) FROM dougong_transitions")
        until = min(position + STEP_ROWS, cast("int | None", last[0] if last else None) or position)
        rows = await tx.fetch_all(  # machine + 0: not by the index that begins with it, which knows no order of seq
            f"{_SELECT}WHERE seq > ? AND seq <= ? AND machine + 0 = ? AND target IN ({marks(len(targets))}) "
            "ORDER BY seq LIMIT ?",
            (position, until, self._table.number, *targets, limit),
        )
        items = [self._table.transition(row) for row in rows]
        return Page(items, items[-1].seq if len(items) == limit else max(position, until))

    async def _last_to_forget(self, up_to: int | None, before_us: int | None) -> int | None:
        """The last position of the next stretch to drop. It ends at the first row that is too young."""
        rows = await self._store.fetch_all(
            "SELECT seq, at_us FROM dougong_transitions ORDER BY seq LIMIT ?", (FORGET_ROWS,)
        )
        last: int | None = None
        for seq, at_us in cast("list[tuple[int, int]]", rows):
            if (up_to is not None and seq > up_to) or (before_us is not None and at_us >= before_us):
                break
            last = seq
        return last
