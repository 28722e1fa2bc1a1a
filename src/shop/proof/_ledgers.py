"""What must hold within and between the shop's databases, once it has settled. One function per book.

Each reads one connection with orders' database as main and the others attached as `inventory` and `users`, and yields
(kind, what is wrong in words with the numbers).
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from dougong.tcc import BranchState, TransactionState
from shop.inventory import StockHolds
from shop.orders import Line
from shop.users import WalletHolds

__all__ = ["LEDGERS", "Finding"]

Finding = tuple[str, str]

_CLOCK_SLACK_US = 60_000_000
"""Around the time before which finished transactions are forgotten: rows of one run are stamped milliseconds apart."""

_decode_lines = msgspec.json.Decoder(list[Line]).decode


def _stock(books: sqlite3.Connection) -> Iterator[Finding]:
    for sku, available, frozen, sold, total in books.execute(
        "SELECT sku, available, frozen, sold, total FROM inventory.stock "
        "WHERE available + frozen + sold <> total OR frozen <> 0 OR available < 0 OR frozen < 0 OR sold < 0"
    ):
        counts = f"SKU {sku}: available {available:,}, frozen {frozen:,}, sold {sold:,}, total {total:,}"
        if available + frozen + sold != total:
            yield "stock_sum", f"{counts}: the three do not add up to total"
        if min(available, frozen, sold) < 0:
            yield "stock_negative", counts
        if frozen:
            yield "stock_frozen", f"{counts}: nothing is under way that could hold the frozen ones"


def _wallets(books: sqlite3.Connection) -> Iterator[Finding]:
    for user_id, available, frozen, spent, deposited in books.execute(
        "SELECT user_id, available, frozen, spent, deposited FROM users.wallets "
        "WHERE available + frozen + spent <> deposited OR frozen <> 0 OR available < 0 OR frozen < 0 OR spent < 0"
    ):
        sums = f"user {user_id}: available {available:,}, frozen {frozen:,}, spent {spent:,}, deposited {deposited:,}"
        if available + frozen + spent != deposited:
            yield "wallet_sum", f"{sums}: the three do not add up to deposited"
        if min(available, frozen, spent) < 0:
            yield "wallet_negative", sums
        if frozen:
            yield "wallet_frozen", f"{sums}: nothing is under way that could hold the frozen money"


def _sales(books: sqlite3.Connection) -> Iterator[Finding]:
    """What orders say was sold and paid, against what inventory and users say."""
    sold: Counter[str] = Counter()
    spent: Counter[int] = Counter()
    for user_id, total_minor, lines in books.execute(
        "SELECT user_id, total_minor, lines FROM orders "
        "WHERE state IN ('confirmed', 'picking', 'shipped', 'delivered', 'cancelling')"
    ):
        spent[user_id] += total_minor
        for line in _decode_lines(lines):
            sold[line.sku] += line.quantity
    for sku, booked in books.execute("SELECT sku, sold FROM inventory.stock"):
        ordered = sold.pop(sku, 0)
        if booked != ordered:
            yield "stock_sold", f"SKU {sku}: {booked:,} booked as sold, {ordered:,} in accepted orders"
    for sku, ordered in sold.items():
        yield "stock_sold", f"SKU {sku}: {ordered:,} in accepted orders, and inventory does not know it"
    for user_id, booked in books.execute("SELECT user_id, spent FROM users.wallets"):
        ordered = spent.pop(user_id, 0)
        if booked != ordered:
            yield "wallet_spent", f"user {user_id}: {booked:,} booked as spent, {ordered:,} in accepted orders"
    for user_id, ordered in spent.items():
        yield "wallet_spent", f"user {user_id}: {ordered:,} in accepted orders, and there is no such wallet"


def _transactions(books: sqlite3.Connection) -> Iterator[Finding]:
    """Every transaction over, every order with its transaction, and both saying the same."""
    for state, count in books.execute(
        "SELECT state, count(*) FROM dougong_transactions WHERE state NOT IN (3, 5) GROUP BY state"
    ):
        parked = state in {TransactionState.PARKED_CONFIRMING, TransactionState.PARKED_CANCELLING}
        kind = "transaction_parked" if parked else "transaction_unsettled"
        remedy = "; dougong tx list shows them, dougong tx retry puts them back to work" if parked else ""
        yield kind, f"{count:,} transactions are {_words(TransactionState(state))}{remedy}"
    for id_, state, order in books.execute(
        """
        SELECT t.id, t.state, o.state FROM dougong_transactions t LEFT JOIN reversals r ON r.id = t.id
        LEFT JOIN orders o ON o.id = coalesce(r.order_id, t.id)
        WHERE CASE
            WHEN o.id IS NULL THEN 1
            WHEN t.id & 1 THEN t.state = 3 AND o.state <> 'cancelled' -- after a refused one there may be another
            WHEN t.state = 3 THEN o.state IN ('placing', 'refused')
            WHEN t.state = 5 THEN o.state <> 'refused'
            ELSE 0 END
        """
    ):
        yield (
            "transaction_disagrees",
            f"transaction {id_} is {_words(TransactionState(state))}, its order is {order or 'missing'}",
        )
    for id_, order in books.execute(
        "SELECT o.id, o.state FROM orders o LEFT JOIN dougong_transactions t ON t.id = o.id "
        "WHERE t.id IS NULL AND o.created_us > (SELECT floor_us FROM dougong_initiator) + ?",
        (_CLOCK_SLACK_US,),
    ):
        yield "transaction_missing", f"order {id_} is {order}, and its transaction is not in the log"


def _fences(books: sqlite3.Connection) -> Iterator[Finding]:
    yield from _fence(books, "inventory", StockHolds.service)
    yield from _fence(books, "users", WalletHolds.service)


def _fence(books: sqlite3.Connection, database: str, participant: str) -> Iterator[Finding]:
    """A participant's fence against the initiator's log: confirmed there means confirmed here, and so on."""
    scope = books.execute(
        f"SELECT scope, floor_us FROM {database}.dougong_fence_scopes "  # noqa: S608 (our own constants)
        "WHERE participant = ? AND initiator = (SELECT name FROM dougong_initiator)",
        (participant,),
    ).fetchone() or (0, 0)
    for id_, state, branch in books.execute(
        f"""
        SELECT t.id, t.state, f.state FROM dougong_transactions t
        LEFT JOIN {database}.dougong_fence f ON f.scope = ? AND f.transaction_id = t.id
        WHERE t.branches IN (SELECT s.ref FROM dougong_branch_sets s, json_each(s.participants) p WHERE p.value = ?)
        AND (t.state = 3 AND f.state IS NOT 2 AND NOT (f.state IS NULL AND t.created_us < ? + {_CLOCK_SLACK_US})
            OR t.state = 5 AND f.state IN (1, 2))
        """,  # noqa: S608 (our own constants)
        (scope[0], participant, scope[1]),
    ):
        said = _words(BranchState(branch)) if branch is not None else "missing"
        yield (
            "fence_disagrees",
            f"transaction {id_} is {_words(TransactionState(state))}, its branch at {participant} is {said}",
        )
    for id_, branch in books.execute(
        f"""
        SELECT f.transaction_id, f.state FROM {database}.dougong_fence f
        LEFT JOIN dougong_transactions t ON t.id = f.transaction_id
        WHERE f.scope = ? AND t.id IS NULL AND (f.state = 1 OR (SELECT floor_us FROM dougong_initiator) = 0)
        """,  # noqa: S608 (our own constants)
        (scope[0],),
    ):
        yield (
            "fence_orphan",
            f"{participant} has transaction {id_} as {_words(BranchState(branch))}, and it is not in the log",
        )


def _words(state: TransactionState | BranchState) -> str:
    return state.name.lower().replace("_", " ")


LEDGERS: tuple[Callable[[sqlite3.Connection], Iterator[Finding]], ...] = (
    _stock,
    _wallets,
    _sales,
    _transactions,
    _fences,
)
