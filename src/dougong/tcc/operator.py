"""What a person does about transactions: look, retry, cancel. Works on the log alone, so also from another process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec

from dougong.errors import Conflict, NotFound
from dougong.store import Queue, Row, Store, Tx, Value, execute_with, fetch_with
from dougong.tcc._protocol import TransactionState
from dougong.tcc.announcing import QUEUE, ids_of

__all__ = ["DeadLetter", "Operator", "Transaction"]

T = TransactionState
_UNFINISHED = (T.TRYING, T.HELD, T.CONFIRMING, T.CANCELLING)
_PARKED = (T.PARKED_CONFIRMING, T.PARKED_CANCELLING)


class Transaction(msgspec.Struct, frozen=True):
    """A transaction as its log has it. Times are UTC microseconds."""

    id: int
    state: TransactionState
    participants: tuple[str, ...]
    created_us: int
    due_us: int | None
    """When whoever is free takes it over; None when it is over, held or parked."""
    expires_us: int | None
    """When what is held is given back."""
    parked_us: int | None
    attempts: int
    owner: str
    """Who took it over last; empty while its first coordinator has it."""
    code: str
    message: str
    """Why it was refused."""
    failure: str
    """Why telling a participant failed last."""


class DeadLetter(msgspec.Struct, frozen=True):
    """A message that was delivered as often as it may be, and whose transactions were not settled by then."""

    id: int
    transactions: tuple[int, ...]
    attempts: int
    dead_us: int
    failure: str


class Operator:
    """`Operator(store)` on an initiator's database. Running coordinators act on what it writes at their next scan.

    Nothing here can undo a decision: `retry` goes on in the direction decided, `cancel` takes only what is undecided or
    held.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queue = Queue(store, QUEUE)

    async def show(self, transaction: int) -> Transaction:
        """One transaction; `NotFound` when the log does not (or no longer) have it."""
        row = await self._store.fetch_one(f"{_SELECT} dougong_transactions t {_JOIN} WHERE t.id = ?", (transaction,))
        if row is None:
            raise NotFound(f"there is no transaction {transaction} in the log", code="unknown_transaction")
        return _transaction(row)

    async def state(self, transaction: int) -> TransactionState | None:
        """Where a transaction stands; None when the log does not have it."""
        row = await self._store.fetch_one("SELECT state FROM dougong_transactions WHERE id = ?", (transaction,))
        return None if row is None else TransactionState(cast(int, row[0]))

    async def retry(self, transactions: Sequence[int]) -> list[int]:
        """Put parked transactions back to work with a fresh retry budget; those that were parked."""

        async def unit(tx: Tx) -> list[int]:
            rows = await fetch_with(
                tx, "SELECT id FROM dougong_transactions WHERE state IN (6, 7) AND id IN ({ids})", transactions
            )
            ids = sorted(cast(int, row[0]) for row in rows)
            await execute_with(
                tx,
                "UPDATE dougong_transactions SET state = CASE state WHEN 6 THEN 2 ELSE 4 END, attempts = 0, "
                "parked_us = NULL, due_us = 0 WHERE state IN (6, 7) AND id IN ({ids})",
                ids,
            )
            return ids

        return await self._store.write(unit)

    async def dead_letters(self, limit: int = 100) -> Sequence[DeadLetter]:
        """Messages that nobody delivers any more, those that died first first."""
        await self._queue.start()
        return [
            DeadLetter(m.id, tuple(ids_of(m)), m.attempts, m.dead_us or 0, m.failure)
            for m in await self._store.read(lambda tx: self._queue.dead(tx, limit))
        ]

    async def revive(self, limit: int = 10_000) -> int:
        """Have dead letters delivered again, with all their attempts; how many."""
        await self._queue.start()

        async def unit(tx: Tx) -> int:
            dead = await self._queue.dead(tx, limit)
            await self._queue.revive(tx, dead)
            return len(dead)

        return await self._store.write(unit)

    async def cancel(self, transaction: int) -> None:
        """Have an undecided or held transaction cancelled at once. `Conflict` when it is decided already."""

        async def unit(tx: Tx) -> int:
            return await tx.execute(
                "UPDATE dougong_transactions SET due_us = 0, expires_us = NULL, code = 'cancelled', "
                "message = 'cancelled by an operator' WHERE id = ? AND state IN (1, 8)",
                (transaction,),
            )

        if not await self._store.write(unit):
            found = await self.show(transaction)
            raise Conflict(
                f"transaction {transaction} is {found.state.name.lower()}: only an undecided or held one is cancelled",
                code="transaction_decided",
                state=found.state.name.lower(),
            )

    async def list(
        self, *, states: Sequence[TransactionState] = (), after: int = 0, limit: int = 100
    ) -> Sequence[Transaction]:
        """Transactions in some states (default: all unfinished and parked ones) with ids above `after`, by id."""
        wanted = tuple(states) or (*_UNFINISHED, *_PARKED)
        if set(wanted) <= {*_UNFINISHED, *_PARKED}:
            source = (
                "(SELECT * FROM dougong_transactions WHERE due_us IS NOT NULL "
                "UNION ALL SELECT * FROM dougong_transactions WHERE expires_us IS NOT NULL "
                "UNION ALL SELECT * FROM dougong_transactions WHERE parked_us IS NOT NULL AND due_us IS NULL)"
            )
        else:
            source = "dougong_transactions"
        marks = ", ".join("?" * len(wanted))
        rows = await self._store.fetch_all(
            f"{_SELECT} {source} t {_JOIN} WHERE t.state IN ({marks}) AND t.id > ? ORDER BY t.id LIMIT ?",
            (*map(int, wanted), after, limit),
        )
        return [_transaction(row) for row in rows]


_SELECT = (
    "SELECT t.id, t.state, b.participants, t.created_us, t.due_us, t.expires_us, t.parked_us, t.attempts, t.owner, "
    "t.code, t.message, t.failure FROM"
)
_JOIN = "JOIN dougong_branch_sets b ON b.ref = t.branches"


def _transaction(row: Row) -> Transaction:
    id_, state, participants, created_us, due_us, expires_us, parked_us, attempts, *texts = row
    texts_: list[Value] = texts
    return Transaction(
        id_,  # type: ignore[arg-type]
        TransactionState(cast(int, state)),
        tuple(msgspec.json.decode(cast(str, participants), type=list[str])),
        created_us,  # type: ignore[arg-type]
        due_us,  # type: ignore[arg-type]
        expires_us,  # type: ignore[arg-type]
        parked_us,  # type: ignore[arg-type]
        attempts,  # type: ignore[arg-type]
        *(cast(str, text) if text is not None else "" for text in texts_),
    )
