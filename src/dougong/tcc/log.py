"""The transaction log in the initiator's database: every statement about its tables stands here.

Each change of state is a compare-and-set, one statement for a whole batch: it names the state it expects, and the
number of rows it changed says whether somebody else was there first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import msgspec

from dougong.errors import Conflict, Invalid
from dougong.store import Tx, Value, execute_with, fetch_with
from dougong.tcc._protocol import TransactionState
from dougong.tcc.fence_table import FORGET_ROWS
from dougong.tcc.ids import ids_json, spread
from dougong.tcc.transaction import Decision

__all__ = ["CLAIM_ROWS", "NEVER_US", "BranchSets", "Log", "LogRow", "NewRow"]

CLAIM_ROWS = 2000
"""Overdue transactions claimed in one unit."""

NEVER_US = 1 << 62
"""When a hold ends that only a word ends."""

NewRow = tuple[int, int, int, int, int]
"""(id, branch set, digest, created_us, due_us)."""

T = TransactionState
_decode_ids = msgspec.json.Decoder(list[int]).decode
_encode = msgspec.json.encode


class LogRow(msgspec.Struct, frozen=True, gc=False):
    """A transaction as logged."""

    id: int
    state: TransactionState
    branches: int
    digest: int
    created_us: int
    attempts: int
    code: str
    message: str

    def moved(self, to: TransactionState) -> LogRow:
        """The row after it was decided, with a fresh retry budget."""
        return LogRow(self.id, to, self.branches, self.digest, self.created_us, 0, self.code, self.message)


class BranchSets:
    """Combinations of participants by the number that stands for them in the log."""

    def __init__(self) -> None:
        self._refs: dict[tuple[str, ...], int] = {}
        self._names: dict[int, tuple[str, ...]] = {}

    def find(self, names: tuple[str, ...]) -> int | None:
        """The number of a combination, if it is known here."""
        return self._refs.get(names)

    def names(self, ref: int) -> tuple[str, ...] | None:
        """The combination of a number, if it is known here."""
        return self._names.get(ref)

    async def load(self, tx: Tx) -> None:
        """Learn all there are."""
        for ref, text in await tx.fetch_all("SELECT ref, participants FROM dougong_branch_sets"):
            names = tuple(msgspec.json.decode(cast(str, text), type=list[str]))
            self._refs[names] = cast(int, ref)
            self._names[cast(int, ref)] = names

    async def add(self, tx: Tx, names: tuple[str, ...]) -> None:
        """Give a combination a number, unless it has one; `load` afterwards, once that is durable."""
        text = _encode(names).decode()
        if await tx.fetch_one("SELECT ref FROM dougong_branch_sets WHERE participants = ?", (text,)) is None:
            await tx.execute("INSERT INTO dougong_branch_sets (participants) VALUES (?)", (text,))


class Log:
    """Statements over the log. Methods run inside a unit; nothing is remembered between units."""

    _expecting = " AND state = {}"
    """The compare of compare-and-set."""

    async def open(self, tx: Tx, initiator: str) -> int:
        """Make sure the log is this initiator's; its floor_us."""
        row = await tx.fetch_one("SELECT name, floor_us FROM dougong_initiator")
        if row is None:
            row = (initiator, 0)
            await tx.execute("INSERT INTO dougong_initiator (one, name, floor_us) VALUES (1, ?, ?)", row)
        if row[0] != initiator:
            raise Invalid(
                f"the transaction log in this database belongs to initiator {row[0]!r}, not {initiator!r}: "
                f"participants know its transactions by that name, so it cannot change; use another database",
                code="wrong_initiator",
            )
        return cast(int, row[1])

    async def insert(self, tx: Tx, rows: Sequence[NewRow]) -> bool:
        """Log new transactions as TRYING; False when some ids were there already (then undo the unit)."""
        try:
            await tx.execute_many(
                "INSERT INTO dougong_transactions (id, branches, state, digest, created_us, due_us) "
                "VALUES (?, ?, 1, ?, ?, ?)",
                rows,
            )
        except Conflict as conflict:
            if conflict.code != "unique_violated":
                raise
            return False
        await self._file(tx, rows[0][3], [row[0] for row in rows])
        return True

    async def rows(self, tx: Tx, ids: Sequence[int]) -> dict[int, LogRow]:
        """The transactions there are, by id."""
        rows = await fetch_with(tx, f"SELECT {_COLUMNS} FROM dougong_transactions WHERE id IN ({{ids}})", ids)  # noqa: S608
        return {cast(int, row[0]): _row(row) for row in rows}

    async def decided(self, tx: Tx, ids: Sequence[int]) -> dict[int, LogRow]:
        """Of these, those that are decided and not over: somebody has still to be told."""
        rows = await fetch_with(
            tx,
            f"SELECT {_COLUMNS} FROM dougong_transactions WHERE state IN (2, 4) AND id IN ({{ids}})",  # noqa: S608
            ids,
        )
        return {cast(int, row[0]): _row(row) for row in rows}

    async def accept(self, tx: Tx, ids: Sequence[int]) -> bool:
        """TRYING → CONFIRMING; False when some were no longer TRYING (then undo the unit)."""
        return await self._move(tx, ids, T.TRYING, T.CONFIRMING) == len(ids)

    async def refuse(self, tx: Tx, refused: Sequence[tuple[int, bool, str, str]]) -> bool:
        """TRYING → CANCELLING, or CANCELLED when nothing is held. `refused`: (id, held somewhere, code, message)."""
        changed = await tx.execute_many(
            "UPDATE dougong_transactions SET state = ?, due_us = CASE WHEN ? THEN due_us END, code = ?, "  # noqa: S608
            "message = ? WHERE id = ?" + self._expecting.format(1),
            [(4 if held else 5, held, code, message, id_) for id_, held, code, message in refused],
        )
        return changed == len(refused)

    async def hold(self, tx: Tx, ids: Sequence[int], expires_us: int) -> bool:
        """TRYING → HELD until then; False when some were no longer TRYING (then undo the unit).

        One that an operator has cancelled meanwhile stays due, for recovery to see to.
        """
        also = f", due_us = CASE WHEN code IS NOT NULL THEN due_us END, expires_us = {expires_us:d}"
        return await self._move(tx, ids, T.TRYING, T.HELD, also) == len(ids)

    async def release(self, tx: Tx, decisions: Sequence[Decision], due_us: int) -> bool:
        """HELD → CONFIRMING or CANCELLING; False when some were no longer HELD (then undo the unit)."""
        changed = await tx.execute_many(
            "UPDATE dougong_transactions SET state = ?, due_us = ?, expires_us = NULL, code = ?, message = ? "  # noqa: S608
            "WHERE id = ?" + self._expecting.format(int(T.HELD)),
            [
                (
                    int(T.CONFIRMING if d.accepted else T.CANCELLING),
                    due_us,
                    d.code or None,
                    d.message or None,
                    d.transaction,
                )
                for d in decisions
            ],
        )
        return changed == len(decisions)

    async def finish(self, tx: Tx, state: TransactionState, ids: Sequence[int]) -> int:
        """CONFIRMING → CONFIRMED or CANCELLING → CANCELLED."""
        to = T.CONFIRMED if state is T.CONFIRMING else T.CANCELLED
        return await self._move(tx, ids, state, to, ", due_us = NULL, failure = NULL")

    async def postpone(self, tx: Tx, rows: Iterable[tuple[int, int, str, int]]) -> None:
        """(attempts, due_us, failure, id): told again later; until then the lease of whoever does it."""
        await tx.execute_many(
            "UPDATE dougong_transactions SET attempts = ?, due_us = ?, failure = ? WHERE id = ? AND state IN (2, 4)",
            rows,
        )

    async def park(self, tx: Tx, state: TransactionState, rows: Iterable[tuple[int, int, str, int]]) -> int:
        """(attempts, parked_us, failure, id): out of the coordinator's hands until an operator's retry."""
        to = T.PARKED_CONFIRMING if state is T.CONFIRMING else T.PARKED_CANCELLING
        return await tx.execute_many(
            f"UPDATE dougong_transactions SET state = {int(to)}, due_us = NULL, attempts = ?, parked_us = ?, "  # noqa: S608
            f"failure = ? WHERE id = ?" + self._expecting.format(int(state)),
            rows,
        )

    async def claim(
        self, tx: Tx, now_us: int, horizon_us: int, hold_horizon_us: int, owner: str, until_us: int
    ) -> list[LogRow]:
        """Take overdue transactions and holds: until `until_us` they are `owner`'s to finish.

        A time beyond its horizon was set by a clock that has been moved back since: that is overdue too.
        """
        rows = await tx.fetch_all(
            f"SELECT {_COLUMNS} FROM dougong_transactions WHERE due_us IS NOT NULL AND due_us <= ? "  # noqa: S608
            f"ORDER BY due_us LIMIT {CLAIM_ROWS}",
            (now_us,),
        )
        if not rows:
            rows = await tx.fetch_all(
                f"SELECT {_COLUMNS} FROM dougong_transactions WHERE due_us IS NOT NULL AND due_us > ? "  # noqa: S608
                f"ORDER BY due_us LIMIT {CLAIM_ROWS}",
                (horizon_us,),
            )
        if len(rows) < CLAIM_ROWS:
            rows += await tx.fetch_all(
                f"SELECT {_COLUMNS} FROM dougong_transactions WHERE expires_us IS NOT NULL "  # noqa: S608
                f"AND (expires_us <= ? OR expires_us > ? AND expires_us < {NEVER_US}) "
                f"ORDER BY expires_us LIMIT {CLAIM_ROWS}",
                (now_us, hold_horizon_us),
            )
        if rows:  # an expired hold is overdue like any other from here on
            await execute_with(
                tx,
                "UPDATE dougong_transactions SET due_us = ?, owner = ?, expires_us = NULL WHERE id IN ({ids})",
                [cast(int, row[0]) for row in rows],
                (until_us, owner),
            )
        return [_row(row) for row in rows]

    async def oldest_us(self, tx: Tx) -> int | None:
        """When the oldest transaction that is neither over nor parked began."""
        row = await tx.fetch_one(
            "SELECT min(created_us) FROM (SELECT created_us FROM dougong_transactions WHERE due_us IS NOT NULL "
            "UNION ALL SELECT created_us FROM dougong_transactions WHERE expires_us IS NOT NULL) AS unfinished"
        )
        return cast("int | None", row[0]) if row is not None else None

    async def parked(self, tx: Tx, limit: int) -> list[int]:
        """Parked transactions, those parked first first."""
        rows = await tx.fetch_all(
            "SELECT id FROM dougong_transactions WHERE parked_us IS NOT NULL ORDER BY parked_us LIMIT ?", (limit,)
        )
        return [cast(int, row[0]) for row in rows]

    async def raise_floor(self, tx: Tx, before_us: int) -> None:
        """Remember what participants are about to be told."""
        await tx.execute("UPDATE dougong_initiator SET floor_us = ? WHERE floor_us < ?", (before_us, before_us))

    async def forget(self, tx: Tx, before_us: int) -> bool:
        """Drop transactions that began before and are over; whether there is more to drop."""
        pages = await tx.fetch_all(
            "SELECT created_us, first_id, transaction_ids FROM dougong_transaction_pages "
            "WHERE created_us < ? ORDER BY created_us, first_id LIMIT 500",
            (before_us,),
        )
        ids: list[int] = []
        files: list[tuple[Value, Value]] = []
        for created_us, first_id, text in pages:
            ids += _decode_ids(cast(str, text))
            files.append((created_us, first_id))
            if len(ids) >= FORGET_ROWS:
                break
        if not files:
            return False
        await tx.execute_many("DELETE FROM dougong_transaction_pages WHERE created_us = ? AND first_id = ?", files)
        await execute_with(tx, "DELETE FROM dougong_transactions WHERE state IN (3, 5) AND id IN ({ids})", ids)
        kept = await fetch_with(tx, "SELECT id FROM dougong_transactions WHERE id IN ({ids})", ids)
        if kept:  # parked: filed anew under the floor's own time, so that a later call finds them
            await self._file(tx, before_us, [cast(int, row[0]) for row in kept])
        return len(files) < len(pages) or len(pages) == 500

    async def _move(
        self, tx: Tx, ids: Sequence[int], state: TransactionState, to: TransactionState, also: str = ""
    ) -> int:
        low, high, width = spread(ids)
        head = f"UPDATE dougong_transactions SET state = {int(to)}{also} WHERE "  # noqa: S608
        expecting = self._expecting.format(int(state))
        if width == len(ids):
            return await tx.execute(head + "id BETWEEN ? AND ?" + expecting, (low, high))
        return await execute_with(tx, head + "id IN ({ids})" + expecting, ids)

    async def _file(self, tx: Tx, created_us: int, ids: Sequence[int]) -> None:
        await tx.execute(
            "INSERT INTO dougong_transaction_pages (created_us, first_id, transaction_ids) VALUES (?, ?, ?)",
            (created_us, ids[0], ids_json(ids)),
        )


_COLUMNS = "id, state, branches, digest, created_us, attempts, code, message"


def _row(row: Sequence[Value]) -> LogRow:
    id_, state, branches, digest, created_us, attempts, code, message = row
    return LogRow(id_, TransactionState(state), branches, digest, created_us, attempts, code or "", message or "")  # type: ignore[arg-type]
