"""The check that must be able to fail: each kind of discrepancy is made by hand and found, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.shop.proof.conftest import NOW_US, USERS_SCOPE, Databases

from dougong.errors import NotFound
from dougong.evidence import Journal
from dougong.tcc import BranchState, TransactionState
from shop.orders import Line, OrderState, PlaceOrder
from shop.proof import Intent, audit, is_at_rest, is_settled, look_before


async def kinds(databases: Databases) -> set[str]:
    found = await audit(databases.data, databases.journal, before=databases.before, settle_s=0.0, second_look_s=0.0)
    assert all(discrepancy.what for discrepancy in found)
    return {discrepancy.kind for discrepancy in found}


async def test_books_in_order(databases: Databases) -> None:
    assert await kinds(databases) == set()
    assert is_settled(databases.data)
    assert is_at_rest(databases.data)
    assert await audit(databases.data, settle_s=0.0, second_look_s=0.0, intents=provider_of(databases)) == []


def provider_of(databases: Databases) -> dict[str, list[Intent]]:
    """The provider's books, as they should be."""
    paid, open_, voided, back, lost = (250 * n for n in (1, 2, 4, 5, 6))
    return {
        str(AWAITING): [Intent("pi_1", "open", open_, 0)],
        str(PAID): [Intent("pi_2", "paid", paid, 0)],
        str(VOIDED): [Intent("pi_3", "voided", voided, 0)],
        str(REFUNDED): [Intent("pi_4", "paid", back, back)],
        str(REFUNDING): [Intent("pi_5", "paid", lost, 0)],
    }


@pytest.mark.parametrize(
    ("order_id", "intents", "kind"),
    [
        (1014 << 8, [], "provider_money"),
        (1014 << 8, [Intent("pi_2", "paid", 250, 250)], "provider_money"),
        (1014 << 8, [Intent("pi_2", "voided", 250, 0)], "provider_money"),
        (1014 << 8, [Intent("pi_2", "paid", 250, 0), Intent("pi_9", "open", 250, 0)], "provider_doubled"),
        (1016 << 8, [Intent("pi_3", "paid", 1000, 0)], "provider_money"),
        (1018 << 8, [Intent("pi_4", "paid", 1250, 1000)], "provider_money"),
        (9999, [Intent("pi_9", "paid", 250, 0)], "provider_orphan"),
    ],
)
async def test_money_at_the_provider_that_is_not_where_it_should_be(
    databases: Databases, order_id: int, intents: list[Intent], kind: str
) -> None:
    wrong = {**provider_of(databases), str(order_id): intents}
    found = await audit(databases.data, settle_s=0.0, second_look_s=0.0, intents=wrong)
    assert {d.kind for d in found} == {kind}


def orders(sql: str, *parameters: object) -> Callable[[Databases], object]:
    return lambda databases: databases.run("orders", sql, *parameters)


def inventory(sql: str, *parameters: object) -> Callable[[Databases], object]:
    return lambda databases: databases.run("inventory", sql, *parameters)


def users(sql: str, *parameters: object) -> Callable[[Databases], object]:
    return lambda databases: databases.run("users", sql, *parameters)


def also(*steps: Callable[[Databases], object]) -> Callable[[Databases], object]:
    return lambda databases: [step(databases) for step in steps]


FIRST, SECOND, REFUSED, CANCELLED, OPEN = (number << 8 for number in (1002, 1004, 1006, 1008, 1010))
AWAITING, PAID, VOIDED, REFUNDED, REFUNDING, LOST, RETURNED = (number << 8 for number in range(1012, 1026, 2))

TAMPERED: dict[str, tuple[Callable[[Databases], object], set[str]]] = {
    "an order vanished with its transaction": (
        also(
            orders("DELETE FROM orders WHERE id = ?", FIRST),
            orders("DELETE FROM dougong_transactions WHERE id = ?", FIRST),
            inventory("DELETE FROM dougong_fence WHERE transaction_id = ?", FIRST),
            users("DELETE FROM dougong_fence WHERE transaction_id = ?", FIRST),
        ),
        {"lost_order", "stock_sold", "wallet_spent"},
    ),
    "an acknowledged order is refused": (
        orders("UPDATE orders SET state = 'refused' WHERE id = ?", FIRST),
        {"unkept_order", "transaction_disagrees", "stock_sold", "wallet_spent"},
    ),
    "an order hangs": (
        orders("UPDATE orders SET state = 'placing' WHERE id = ?", FIRST),
        {"unkept_order", "transaction_disagrees", "stock_sold", "wallet_spent"},
    ),
    "another total than was acknowledged": (
        orders("UPDATE orders SET total_minor = total_minor + 1 WHERE id = ?", FIRST),
        {"wrong_total", "wallet_spent"},
    ),
    "another user's order": (
        orders("UPDATE orders SET user_id = 3 WHERE id = ?", FIRST),
        {"wrong_order", "wallet_spent"},
    ),
    "other lines than were asked for": (
        orders("UPDATE orders SET lines = ? WHERE id = ?", '[{"sku":"sku-1","quantity":3}]', FIRST),
        {"wrong_order", "stock_sold"},
    ),
    "an order nobody asked for": (lambda databases: databases.order(journaled=""), {"phantom_order"}),
    "two orders for one open outcome": (
        lambda databases: databases.order([("sku-3", 4)], user_id=3, journaled=""),
        {"phantom_order"},
    ),
    "stock out of nothing": (
        inventory("UPDATE stock SET available = available + 1 WHERE sku = 'sku-2'"),
        {"stock_sum"},
    ),
    "negative stock": (
        inventory("UPDATE stock SET available = -1, total = sold - 1 WHERE sku = 'sku-1'"),
        {"stock_negative"},
    ),
    "stock frozen for ever": (
        inventory("UPDATE stock SET available = available - 2, frozen = frozen + 2 WHERE sku = 'sku-2'"),
        {"stock_frozen"},
    ),
    "stock held for nobody": (
        orders("UPDATE orders SET state = 'confirmed' WHERE id = ?", AWAITING),
        {"stock_frozen", "stock_sold", "transaction_disagrees", "payment_disagrees"},
    ),
    "paid and not told": (
        orders("UPDATE payments SET state = 'paid' WHERE order_id = ?", AWAITING),
        {"payment_disagrees"},
    ),
    "confirmed and not paid": (
        orders("UPDATE payments SET state = 'open' WHERE order_id = ?", PAID),
        {"payment_disagrees"},
    ),
    "given back and the payment forgotten": (
        orders("UPDATE payments SET state = 'paid' WHERE order_id = ?", REFUNDED),
        {"payment_disagrees"},
    ),
    "a payment of another price": (
        orders("UPDATE payments SET amount_minor = 1 WHERE order_id = ?", PAID),
        {"payment_amount"},
    ),
    "a payment vanished": (orders("DELETE FROM payments WHERE order_id = ?", VOIDED), {"payment_disagrees"}),
    "a payment for an order that is none": (
        orders("INSERT INTO payments (order_id, state, amount_minor, currency) VALUES (5000, 'paid', 1, 'EUR')"),
        {"payment_orphan"},
    ),
    "a hold that nobody ended": (
        orders("UPDATE orders SET state = 'cancelled' WHERE id = ?", AWAITING),
        {"stock_frozen", "transaction_disagrees", "payment_disagrees"},
    ),
    "cancelled in the log, confirmed to who paid": (
        orders("UPDATE dougong_transactions SET state = ? WHERE id = ?", int(TransactionState.CANCELLED), PAID),
        {"transaction_disagrees", "fence_disagrees"},
    ),
    "lost goods that are counted as back": (
        orders("UPDATE orders SET refusal_code = 'returned' WHERE id = ?", LOST),
        {"stock_sold"},
    ),
    "returned goods that are counted as lost": (
        orders("UPDATE orders SET refusal_code = 'lost' WHERE id = ?", RETURNED),
        {"stock_sold"},
    ),
    "sold twice": (
        inventory("UPDATE stock SET available = available - 3, sold = sold + 3 WHERE sku = 'sku-1'"),
        {"stock_sold"},
    ),
    "a SKU vanished": (inventory("DELETE FROM stock WHERE sku = 'sku-1'"), {"stock_sold"}),
    "money out of nothing": (users("UPDATE wallets SET available = available + 1 WHERE user_id = 2"), {"wallet_sum"}),
    "negative money": (
        users("UPDATE wallets SET available = -1, deposited = spent - 1 WHERE user_id = 2"),
        {"wallet_negative", "wallet_deposits"},
    ),
    "money frozen for ever": (
        users("UPDATE wallets SET available = available - 5, frozen = 5 WHERE user_id = 2"),
        {"wallet_frozen"},
    ),
    "paid twice": (
        users("UPDATE wallets SET available = available - 750, spent = spent + 750 WHERE user_id = 2"),
        {"wallet_spent"},
    ),
    "a deposit during the run": (
        users("UPDATE wallets SET available = available + 9, deposited = deposited + 9 WHERE user_id = 1"),
        {"wallet_deposits"},
    ),
    "a wallet vanished": (users("DELETE FROM wallets WHERE user_id = 2"), {"wallet_spent", "wallet_deposits"}),
    "a transaction never ends": (
        orders(
            "UPDATE dougong_transactions SET state = ?, due_us = 1 WHERE id = ?",
            int(TransactionState.CONFIRMING),
            FIRST,
        ),
        {"transaction_unsettled"},
    ),
    "a transaction is parked": (
        orders(
            "UPDATE dougong_transactions SET state = ?, parked_us = 1 WHERE id = ?",
            int(TransactionState.PARKED_CONFIRMING),
            FIRST,
        ),
        {"transaction_parked"},
    ),
    "cancelled in the log, delivered to the customer": (
        orders("UPDATE dougong_transactions SET state = ? WHERE id = ?", int(TransactionState.CANCELLED), FIRST),
        {"transaction_disagrees", "fence_disagrees"},
    ),
    "confirmed in the log, refused to the customer": (
        orders("UPDATE dougong_transactions SET state = ? WHERE id = ?", int(TransactionState.CONFIRMED), REFUSED),
        {"transaction_disagrees", "fence_disagrees"},
    ),
    "given back in the log, kept by the order": (
        orders("UPDATE orders SET state = 'confirmed' WHERE id = ?", CANCELLED),
        {"transaction_disagrees", "stock_sold", "wallet_spent"},
    ),
    "an order without its transaction": (
        orders("DELETE FROM dougong_transactions WHERE id = ?", FIRST),
        {"transaction_missing", "fence_orphan"},
    ),
    "a transaction without its order": (
        orders("INSERT INTO dougong_transactions (id, branches, state, digest, created_us) VALUES (5000, 1, 5, 0, 1)"),
        {"transaction_disagrees"},
    ),
    "a hold that was never confirmed": (
        inventory("UPDATE dougong_fence SET state = ? WHERE transaction_id = ?", int(BranchState.TRIED), FIRST),
        {"fence_disagrees"},
    ),
    "money confirmed, stock cancelled": (
        inventory("UPDATE dougong_fence SET state = ? WHERE transaction_id = ?", int(BranchState.CANCELLED), FIRST),
        {"fence_disagrees"},
    ),
    "a branch that never was": (
        users("DELETE FROM dougong_fence WHERE transaction_id = ?", SECOND),
        {"fence_disagrees"},
    ),
    "a hold without a transaction": (
        users("INSERT INTO dougong_fence (scope, transaction_id, state) VALUES (?, 5000, 1)", USERS_SCOPE),
        {"fence_orphan"},
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
async def test_each_wrong_is_found_and_nothing_else(databases: Databases, what: str) -> None:
    tamper, expected = TAMPERED[what]
    assert tamper(databases)
    assert await kinds(databases) == expected


async def test_one_order_acknowledged_to_two(databases: Databases) -> None:
    request, reply = databases.journal.acknowledged[1]
    databases.journal.acknowledged.append((PlaceOrder(user_id="2", lines=list(request.lines)), reply))
    assert await kinds(databases) == {"doubled_order"}


async def test_a_repeat_under_its_key_is_the_same_order(databases: Databases) -> None:
    request, reply = databases.journal.acknowledged[0]
    assert request.idempotency_key
    databases.journal.acknowledged.append((msgspec.structs.replace(request), reply))
    assert await kinds(databases) == set()


async def test_an_open_outcome_may_have_happened_or_not(databases: Databases) -> None:
    databases.journal.unknown.append(PlaceOrder(user_id="1", lines=[Line(sku="sku-1", quantity=1)]))
    assert await kinds(databases) == set()
    databases.order(journaled="")  # it did
    assert await kinds(databases) == set()


async def test_a_run_answers_only_for_itself(tmp_path: Path) -> None:
    databases = Databases(tmp_path)
    for _ in range(3):
        databases.order(journaled="")  # of somebody else, before
    databases.before = look_before(tmp_path)
    databases.order(user_id=2)
    assert await kinds(databases) == set()
    databases.order(user_id=2, journaled="")
    assert await kinds(databases) == {"phantom_order"}


async def test_without_a_journal_the_databases_are_compared_with_each_other(databases: Databases) -> None:
    databases.order(journaled="")
    assert await audit(databases.data, settle_s=0.0, second_look_s=0.0) == []
    databases.run("inventory", "UPDATE stock SET available = 0")
    assert {d.kind for d in await audit(databases.data, settle_s=0.0, second_look_s=0.0)} == {"stock_sum"}


async def test_forgotten_transactions_are_not_missed(databases: Databases) -> None:
    """An hour after its end a transaction's rows go, from log and fences, in any order."""
    databases.run("orders", "DELETE FROM dougong_transactions WHERE id = ?", FIRST)
    databases.run("inventory", "DELETE FROM dougong_fence WHERE transaction_id = ?", SECOND)
    assert await kinds(databases) == {"transaction_missing", "fence_orphan", "fence_disagrees"}
    later = NOW_US + 3_600_000_000
    databases.run("orders", "UPDATE dougong_initiator SET floor_us = ?", later)
    databases.run("inventory", "UPDATE dougong_fence_scopes SET floor_us = ?", later)
    for bucket in range(128):
        databases.run("users", "INSERT INTO dougong_fence_floors VALUES (?, ?, '', '', ?)", USERS_SCOPE, bucket, later)
    assert await kinds(databases) == set()


async def test_it_waits_for_what_is_under_way(databases: Databases) -> None:
    databases.run("orders", "UPDATE dougong_transactions SET state = 2, due_us = 1 WHERE id = ?", FIRST)
    assert not is_settled(databases.data)
    waiting = audit(databases.data, databases.journal, before=databases.before, settle_s=30.0)
    databases.run("orders", "UPDATE dougong_transactions SET state = 3, due_us = NULL WHERE id = ?", FIRST)
    assert await waiting == []


async def test_many_of_a_kind_are_counted(tmp_path: Path) -> None:
    databases = Databases(tmp_path)
    for _ in range(25):
        databases.order(journaled="")
    found = await audit(databases.data, Journal(), before=databases.before, settle_s=0.0, second_look_s=0.0)
    assert len(found) == 21
    assert found[-1].what == "and 5 more of this kind"


def test_rest_means_that_nothing_goes_on_by_itself(databases: Databases) -> None:
    for table in ("orders", "payments"):
        databases.run("orders", f"UPDATE {table} SET due_us = 1")
        assert not is_at_rest(databases.data)
        databases.run("orders", f"UPDATE {table} SET due_us = NULL")
        assert is_at_rest(databases.data)


async def test_no_databases(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"there is no orders\.db"):
        await audit(tmp_path)


async def test_books_are_read_not_written(databases: Databases) -> None:
    for path in databases.data.glob("*.db"):
        path.chmod(0o444)
    assert await kinds(databases) == set()


def test_states_that_count_as_accepted() -> None:
    from shop.proof._books import ACCEPTED

    assert {state.value for state in OrderState} - ACCEPTED == {"placing", "refused"}
