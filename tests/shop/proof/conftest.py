"""A shop's databases, made by hand from its migrations, in the state that a few orders leave behind."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from dougong.evidence import Journal
from dougong.shard.owners import OWNER_MIGRATIONS
from dougong.store import migrations_from
from dougong.tcc import BranchState, TransactionState, scope_number
from shop.inventory import Reserve, StockHolds
from shop.orders import Line, OrderState, PlacedOrder, PlaceOrder
from shop.proof import Before, OrderJournal, look_before
from shop.users import Charge, WalletHolds

NOW_US = 1_750_000_000_000_000
STOCK, CREDIT, PRICE = 1000, 1_000_000, 250
USERS_SCOPE = scope_number(WalletHolds.service, "orders")
SKUS = ("sku-1", "sku-2", "sku-3")


class Databases:
    """Orders, inventory, users and fulfilment as files. Every order here costs 250 a piece, of user 1, 2 or 3."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.journal: OrderJournal = Journal()
        self._next = 1000
        self._create("orders", "shop.orders.migrations", "dougong.tcc.migrations.log")
        self._create("inventory", "shop.inventory.migrations", "dougong.tcc.migrations.fence")
        self._create(
            "users.db-0", "shop.users.migrations", "dougong.tcc.migrations.fence", "dougong.tcc.migrations.floors"
        )
        self.run("users", OWNER_MIGRATIONS[0].sql)
        for bucket in range(128):
            self.run("users", "INSERT INTO dougong_bucket_owner VALUES (?, 1, 'serving')", bucket)
        self._create("fulfilment", "shop.fulfilment.migrations")
        self.run("orders", "INSERT INTO dougong_initiator (one, name) VALUES (1, 'orders')")
        both = msgspec.json.encode([StockHolds.service, WalletHolds.service]).decode()
        self.run("orders", "INSERT INTO dougong_branch_sets (ref, participants) VALUES (1, ?)", both)
        stock = msgspec.json.encode([StockHolds.service]).decode()
        self.run("orders", "INSERT INTO dougong_branch_sets (ref, participants) VALUES (2, ?)", stock)
        self.run("inventory", "INSERT INTO dougong_fence_scopes VALUES (7, ?, 'orders', 0)", StockHolds.service)
        for sku in SKUS:
            self.run(
                "inventory",
                "INSERT INTO stock (sku, name, price_minor, currency, available, total) VALUES (?, ?, ?, 'EUR', ?, ?)",
                sku,
                sku,
                PRICE,
                STOCK,
                STOCK,
            )
        for user_id in (1, 2, 3):
            self.run(
                "users",
                "INSERT INTO wallets (user_id, currency, available, deposited) VALUES (?, 'EUR', ?, ?)",
                user_id,
                CREDIT,
                CREDIT,
            )
        self.before: Before = look_before(data)

    def run(self, name: str, sql: str, *parameters: object) -> int:
        """One statement on one database, checks of the schema switched off: what must not be has to be writable."""
        file = "users.db-0.db" if name == "users" else f"{name}.db"
        with closing(sqlite3.connect(self.data / file)) as database, database:
            database.execute("PRAGMA ignore_check_constraints = on")
            return database.execute(sql, parameters).rowcount

    def order(
        self,
        lines: Sequence[tuple[str, int]] = (("sku-1", 1),),
        *,
        user_id: int = 1,
        state: OrderState = OrderState.DELIVERED,
        key: str = "",
        journaled: str = "acknowledged",
        payment: str = "",
        reason: str = "",
    ) -> int:
        """An order as the shop leaves it, and as a generator saw it (`acknowledged`, `unknown` or not at all).

        With `payment`, the state of its payment, it is paid elsewhere."""
        self._next += 2
        id_ = self._next << 8
        wanted = [Line(sku=sku, quantity=quantity) for sku, quantity in lines]
        pieces = sum(quantity for _, quantity in lines)
        self.run(
            "orders",
            "INSERT INTO orders (id, user_id, state, total_minor, currency, lines, idempotency_key, created_us, "
            "updated_us, payment, refusal_code) VALUES (?, ?, ?, ?, 'EUR', ?, ?, ?, ?, ?, ?)",
            id_,
            user_id,
            state.value,
            pieces * PRICE,
            msgspec.json.encode(wanted).decode(),
            key or None,
            NOW_US,
            NOW_US,
            "external" if payment else "wallet",
            reason or None,
        )
        if payment:
            self.run(
                "orders",
                "INSERT INTO payments (order_id, state, amount_minor, currency) VALUES (?, ?, ?, 'EUR')",
                id_,
                payment,
                pieces * PRICE,
            )
        self._settle(id_, user_id, lines, state, external=bool(payment), reason=reason)
        request = PlaceOrder(user_id=str(user_id), lines=wanted, idempotency_key=key)
        if journaled == "acknowledged":
            reply = PlacedOrder(
                order_id=str(id_), state=OrderState.CONFIRMED, total_minor=pieces * PRICE, currency="EUR"
            )
            self.journal.acknowledged.append((request, reply))
        elif journaled == "unknown":
            self.journal.unknown.append(request)
        return id_

    def _settle(
        self,
        id_: int,
        user_id: int,
        lines: Sequence[tuple[str, int]],
        state: OrderState,
        *,
        external: bool,
        reason: str,
    ) -> None:
        """Transactions and bookings of an order in this state."""
        s = OrderState
        if state is s.REFUSED or (external and state is s.CANCELLED):  # nothing was ever taken for good
            self.transaction(id_, user_id, lines, accepted=False, external=external)
            return
        if state is s.AWAITING_PAYMENT:
            self.transaction(id_, user_id, lines, accepted=True, external=True, held=True)
            self.book(user_id, lines, into="frozen", external=True)
            return
        self.transaction(id_, user_id, lines, accepted=True, external=external)
        if state not in (s.CANCELLED, s.REFUNDING, s.REFUNDED):
            self.book(user_id, lines, external=external)
            return
        if reason == "lost":
            self.book(user_id, lines, external=True)  # the goods are gone; the money is not with us
        if external and reason == "lost":
            return
        self.run("orders", "INSERT INTO reversals (id, order_id) VALUES (?, ?)", id_ | 128, id_)
        back = [(sku, -quantity) for sku, quantity in lines]
        self.transaction(id_ | 128, user_id, back, accepted=True, external=external)

    def transaction(
        self,
        id_: int,
        user_id: int,
        lines: Sequence[tuple[str, int]],
        *,
        accepted: bool,
        external: bool = False,
        held: bool = False,
    ) -> None:
        """A transaction as it ends, or is held: its log row and its fence rows."""
        state = TransactionState.CONFIRMED if accepted else TransactionState.CANCELLED
        branch = BranchState.CONFIRMED if accepted else BranchState.REFUSED
        if held:
            state, branch = TransactionState.HELD, BranchState.TRIED
        self.run(
            "orders",
            "INSERT INTO dougong_transactions (id, branches, state, digest, created_us) VALUES (?, ?, ?, 0, ?)",
            id_,
            2 if external else 1,
            int(state),
            NOW_US,
        )
        amount = sum(quantity for _, quantity in lines) * PRICE
        payloads: dict[str, msgspec.Struct] = {
            "inventory": Reserve(lines=list(lines)),
        }
        if not external:
            payloads["users"] = Charge(user_id=user_id, amount_minor=amount, currency="EUR")
        for name, payload in payloads.items():
            self.run(
                name,
                "INSERT INTO dougong_fence (scope, transaction_id, state, payload) VALUES (?, ?, ?, ?)",
                USERS_SCOPE if name == "users" else 7,
                id_,
                int(branch),
                msgspec.msgpack.encode(payload),
            )

    def book(
        self, user_id: int, lines: Sequence[tuple[str, int]], *, into: str = "sold", external: bool = False
    ) -> None:
        """Available becomes sold (or frozen) and spent."""
        for sku, quantity in lines:
            self.run(
                "inventory",
                f"UPDATE stock SET available = available - ?, {into} = {into} + ? WHERE sku = ?",
                quantity,
                quantity,
                sku,
            )
        if external:
            return
        amount = sum(quantity for _, quantity in lines) * PRICE
        self.run(
            "users",
            "UPDATE wallets SET available = available - ?, spent = spent + ? WHERE user_id = ?",
            amount,
            amount,
            user_id,
        )

    def _create(self, name: str, *packages: str) -> None:
        with closing(sqlite3.connect(self.data / f"{name}.db")) as database:
            database.execute("PRAGMA journal_mode = wal")
            for package in packages:
                for migration in migrations_from(package):
                    database.executescript(migration.sql_for("sqlite"))


@pytest.fixture
def databases(tmp_path: Path) -> Databases:
    """Some orders of every kind, all in order."""
    made = Databases(tmp_path)
    made.order([("sku-1", 2), ("sku-2", 1)], key="k-1")
    made.order([("sku-1", 3)], user_id=2, state=OrderState.CONFIRMED)
    made.order([("sku-3", 1)], user_id=3, state=OrderState.REFUSED, journaled="")
    made.order([("sku-2", 5)], user_id=2, state=OrderState.CANCELLED)
    made.order([("sku-3", 4)], user_id=3, journaled="unknown")
    made.order([("sku-2", 2)], state=OrderState.AWAITING_PAYMENT, payment="open")
    made.order([("sku-1", 1)], state=OrderState.PICKING, payment="paid")
    made.order([("sku-1", 4)], state=OrderState.CANCELLED, payment="voided", reason="expired")
    made.order([("sku-1", 5)], state=OrderState.REFUNDED, payment="refunded", reason="cancelled")
    made.order([("sku-2", 6)], state=OrderState.REFUNDING, payment="refunding", reason="lost")
    made.order([("sku-3", 1)], state=OrderState.REFUNDED, reason="lost")
    made.order([("sku-3", 2)], state=OrderState.REFUNDED, reason="returned")
    return made
