"""What must hold within and between the shop's databases, once it has settled. One function per book.

Each reads one connection with orders' database as main, inventory's attached as `inventory` and views of users'
(`users_wallets` and so on), and yields (kind, what is wrong in words with the numbers).
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from dougong.tcc import BranchState, TransactionState, scope_number
from shop.inventory import StockHolds
from shop.orders import Line
from shop.users import WalletHolds

__all__ = ["LEDGERS", "Finding", "Intent", "provider_ledger"]

Finding = tuple[str, str]

_CLOCK_SLACK_US = 60_000_000
"""Around the time before which finished transactions are forgotten: rows of one run are stamped milliseconds apart."""

_KEPT = "'confirmed', 'picking', 'shipped', 'tracing', 'delivered', 'cancelling', 'returned', 'lost'"
"""States in which the shop has the customer's money, and the customer, or whoever lost it, has the goods."""

_PAYMENTS = {
    "awaiting_payment": {"wanted", "open", "asking"},
    "cancelled": {"declined", "voiding", "voided"},
    "refunding": {"refunding"},
    "refunded": {"refunded"},
}
"""Where the payment of an external order may stand. In all other states of an accepted order it is paid."""

_decode_lines = msgspec.json.Decoder(list[Line]).decode


class Intent(msgspec.Struct, frozen=True):
    """A payment as the provider has it."""

    id: str
    status: str
    amount_minor: int
    refunded_minor: int


def _stock(books: sqlite3.Connection) -> Iterator[Finding]:
    held: Counter[str] = Counter()
    for (lines,) in books.execute("SELECT lines FROM orders WHERE state = 'awaiting_payment'"):
        for line in _decode_lines(lines):
            held[line.sku] += line.quantity
    for sku, available, frozen, sold, total in books.execute(
        "SELECT sku, available, frozen, sold, total FROM inventory.stock"
    ):
        if available + frozen + sold == total and frozen == held[sku] and min(available, frozen, sold) >= 0:
            continue
        counts = f"SKU {sku}: available {available:,}, frozen {frozen:,}, sold {sold:,}, total {total:,}"
        if available + frozen + sold != total:
            yield "stock_sum", f"{counts}: the three do not add up to total"
        if min(available, frozen, sold) < 0:
            yield "stock_negative", counts
        if frozen != held[sku]:
            yield "stock_frozen", f"{counts}: orders that await their payment hold {held[sku]:,}"


def _wallets(books: sqlite3.Connection) -> Iterator[Finding]:
    for user_id, available, frozen, spent, deposited in books.execute(
        "SELECT user_id, available, frozen, spent, deposited FROM users_wallets "
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
    for user_id, total_minor, lines, paid_to_us in books.execute(
        f"SELECT user_id, total_minor, lines, state IN ({_KEPT}) AND payment = 'wallet' FROM orders "  # noqa: S608
        f"WHERE state IN ({_KEPT}) OR state IN ('refunding', 'refunded') AND refusal_code = 'lost'"
    ):
        spent[user_id] += total_minor if paid_to_us else 0
        for line in _decode_lines(lines):  # of a lost parcel the goods stay sold, though its price went back
            sold[line.sku] += line.quantity
    for sku, booked in books.execute("SELECT sku, sold FROM inventory.stock"):
        ordered = sold.pop(sku, 0)
        if booked != ordered:
            yield "stock_sold", f"SKU {sku}: {booked:,} booked as sold, {ordered:,} in accepted orders"
    for sku, ordered in sold.items():
        yield "stock_sold", f"SKU {sku}: {ordered:,} in accepted orders, and inventory does not know it"
    for user_id, booked in books.execute("SELECT user_id, spent FROM users_wallets"):
        ordered = spent.pop(user_id, 0)
        if booked != ordered:
            yield "wallet_spent", f"user {user_id}: {booked:,} booked as spent, {ordered:,} in accepted orders"
    for user_id, ordered in spent.items():
        yield "wallet_spent", f"user {user_id}: {ordered:,} in accepted orders, and there is no such wallet"


def _transactions(books: sqlite3.Connection) -> Iterator[Finding]:
    """Every transaction over, every order with its transaction, and both saying the same."""
    for state, count in books.execute(
        "SELECT state, count(*) FROM dougong_transactions WHERE state NOT IN (3, 5, 8) GROUP BY state"
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
            WHEN t.id & 128 THEN -- after a refused one there may be another
                t.state = 3 AND o.state NOT IN ('cancelled', 'refunding', 'refunded')
            WHEN t.state = 3 THEN o.state IN ('placing', 'refused', 'awaiting_payment')
            WHEN t.state = 5 THEN o.state <> 'refused' AND NOT (o.payment = 'external'
                AND o.state IN ('cancelled', 'refunding', 'refunded') AND o.refusal_code IS NOT 'lost')
            WHEN t.state = 8 THEN o.state <> 'awaiting_payment'
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


def _payments(books: sqlite3.Connection) -> Iterator[Finding]:
    """Every order that is paid elsewhere with its payment, at its price, and both where the other one is."""
    for id_, state, total_minor, currency, payment, amount_minor, of_payment in books.execute(
        "SELECT o.id, o.state, o.total_minor, o.currency, p.state, p.amount_minor, p.currency FROM orders o "
        "LEFT JOIN payments p ON p.order_id = o.id WHERE o.payment = 'external' AND o.state <> 'refused'"
    ):
        if state != "placing" and payment not in _PAYMENTS.get(state, {"paid"}):
            yield "payment_disagrees", f"order {id_} is {state}, its payment is {payment or 'missing'}"
        elif payment is not None and (total_minor, currency) != (amount_minor, of_payment):
            yield (
                "payment_amount",
                f"order {id_} costs {total_minor:,} {currency}, its payment is {amount_minor:,} {of_payment}",
            )
    for id_, state in books.execute(
        "SELECT p.order_id, o.state FROM payments p LEFT JOIN orders o ON o.id = p.order_id "
        "WHERE o.id IS NULL OR o.payment <> 'external' OR o.state = 'refused'"
    ):
        yield "payment_orphan", f"there is a payment for order {id_}, which is {state or 'missing'}"


def provider_ledger(books: sqlite3.Connection, intents: Mapping[str, Sequence[Intent]]) -> Iterator[Finding]:
    """What the provider has of each order's money, against what it should have. `intents`: order id → its payments."""
    known = set(intents)
    for id_, state, total_minor in books.execute(
        "SELECT id, state, total_minor FROM orders WHERE payment = 'external'"
    ):
        known.discard(str(id_))
        made = intents.get(str(id_), ())
        if len(made) > 1:
            yield "provider_doubled", f"order {id_} has payments {', '.join(intent.id for intent in made)}"
        has = sum(i.amount_minor - i.refunded_minor for i in made if i.status == "paid")
        if state in {"awaiting_payment", "refunding"} and has in {0, total_minor}:
            continue  # word of it is under way
        should = 0 if state in _PAYMENTS or state in {"placing", "refused"} else total_minor
        if has != should:
            yield "provider_money", f"order {id_} is {state}: the provider has {has:,} of its {total_minor:,}"
    for reference in known:
        yield "provider_orphan", f"the provider has a payment for order {reference}, which is not there"


def _fences(books: sqlite3.Connection) -> Iterator[Finding]:
    scope, floor_us = books.execute(
        "SELECT scope, floor_us FROM inventory.dougong_fence_scopes "
        "WHERE participant = ? AND initiator = (SELECT name FROM dougong_initiator)",
        (StockHolds.service,),
    ).fetchone() or (0, 0)
    yield from _fence(books, StockHolds.service, "inventory.dougong_fence", scope, str(int(floor_us)))
    (initiator,) = books.execute("SELECT name FROM dougong_initiator").fetchone() or ("",)
    scope = scope_number(WalletHolds.service, initiator)
    of_bucket = f"(SELECT floor_us FROM users_floors WHERE scope = {scope} AND bucket = t.id % 128)"  # noqa: S608 (a number)
    yield from _fence(books, WalletHolds.service, "users_fence", scope, f"coalesce({of_bucket}, 0)")


def _fence(books: sqlite3.Connection, participant: str, table: str, scope: int, floor_us_sql: str) -> Iterator[Finding]:
    """A participant's fence against the initiator's log: confirmed there means confirmed here, and so on."""
    for id_, state, branch in books.execute(
        f"""
        SELECT t.id, t.state, f.state FROM dougong_transactions t
        LEFT JOIN {table} f ON f.scope = ? AND f.transaction_id = t.id
        WHERE t.branches IN (SELECT s.ref FROM dougong_branch_sets s, json_each(s.participants) p WHERE p.value = ?)
        AND (t.state = 3 AND f.state IS NOT 2
                AND NOT (f.state IS NULL AND t.created_us < {floor_us_sql} + {_CLOCK_SLACK_US})
            OR t.state = 5 AND f.state IN (1, 2))
        """,  # noqa: S608 (our own constants)
        (scope, participant),
    ):
        said = _words(BranchState(branch)) if branch is not None else "missing"
        yield (
            "fence_disagrees",
            f"transaction {id_} is {_words(TransactionState(state))}, its branch at {participant} is {said}",
        )
    for id_, branch in books.execute(
        f"""
        SELECT f.transaction_id, f.state FROM {table} f
        LEFT JOIN dougong_transactions t ON t.id = f.transaction_id
        WHERE f.scope = ? AND t.id IS NULL AND (f.state = 1 OR (SELECT floor_us FROM dougong_initiator) = 0)
        """,  # noqa: S608 (our own constants)
        (scope,),
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
    _payments,
    _fences,
)
