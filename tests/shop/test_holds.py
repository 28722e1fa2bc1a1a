"""The two participants of an order against a model: whatever is tried, confirmed and cancelled, the books stay true."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dougong.store import Store, migrations_from, open_store
from dougong.tcc import Hold, Refusal
from shop.inventory import PutProduct, Reserve, StockHolds
from shop.inventory._service import put_products
from shop.users import Charge, WalletHolds

SKUS = ["a", "b", "c"]
STOCK = 20
MONEY = 50

lines = st.lists(st.tuples(st.sampled_from([*SKUS, "none"]), st.integers(1, 8)), min_size=1, max_size=3)
ends = st.sampled_from(["confirm", "cancel"])
charges = st.tuples(st.integers(1, 4), st.integers(1, 30), st.sampled_from(["EUR", "EUR", "EUR", "USD"]))


async def stock_store(directory: str) -> Store:
    store = await open_store(f"sqlite:///{Path(directory) / 'inventory.db'}")
    await store.migrate("inventory", migrations_from("shop.inventory.migrations"))
    products = [PutProduct(sku=sku, name=sku, price_minor=1, restock=STOCK) for sku in SKUS]
    await store.write(lambda tx: put_products(tx, products))
    return store


@given(batches=st.lists(st.lists(st.tuples(lines, ends), max_size=8), min_size=1, max_size=6))
async def test_stock_is_never_oversold_and_always_adds_up(
    batches: Sequence[Sequence[tuple[list[tuple[str, int]], str]]],
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        store = await stock_store(directory)
        holds, number = StockHolds(), 0
        sold = dict.fromkeys(SKUS, 0)
        for batch in batches:
            tried = []
            for wanted, end in batch:
                number += 1
                tried.append((Hold(number, Reserve(lines=wanted)), end))
            answers = await store.write(lambda tx, t=tried: holds.try_(tx, [hold for hold, _ in t]))  # type: ignore[misc]
            accepted = [pair for pair, answer in zip(tried, answers, strict=True) if answer is None]
            for (hold, _), answer in zip(tried, answers, strict=True):
                if any(sku == "none" for sku, _ in hold.payload.lines):
                    assert isinstance(answer, Refusal)
            confirmed = [hold for hold, end in accepted if end == "confirm"]
            cancelled = [hold for hold, end in accepted if end == "cancel"]
            await store.write(lambda tx, c=confirmed: holds.confirm(tx, c))  # type: ignore[misc]
            await store.write(lambda tx, c=cancelled: holds.cancel(tx, c))  # type: ignore[misc]
            for hold in confirmed:
                for sku, quantity in hold.payload.lines:
                    sold[sku] += quantity
        rows = await store.fetch_all("SELECT sku, available, frozen, sold, total FROM stock")
        await store.close()
    assert {row[0]: row[1:] for row in rows} == {sku: (STOCK - sold[sku], 0, sold[sku], STOCK) for sku in SKUS}


@given(st.lists(st.tuples(st.integers(1, 20), st.booleans()), min_size=1, max_size=10))
async def test_what_is_returned_can_be_sold_again(orders: Sequence[tuple[int, bool]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        store = await stock_store(directory)
        holds = StockHolds()
        kept = 0
        for number, (quantity, returned) in enumerate(orders):
            order = [Hold(number, Reserve(lines=[("a", quantity)]))]
            (answer,) = await store.write(lambda tx, o=order: holds.try_(tx, o))  # type: ignore[misc]
            assert (answer is None) == (quantity <= STOCK - kept)
            if answer is not None:
                continue
            await store.write(lambda tx, o=order: holds.confirm(tx, o))  # type: ignore[misc]
            kept += quantity
            if returned:
                back = [Hold(-number, Reserve(lines=[("a", -quantity)]))]
                assert await store.write(lambda tx, b=back: holds.try_(tx, b)) == [None]  # type: ignore[misc]
                await store.write(lambda tx, b=back: holds.confirm(tx, b))  # type: ignore[misc]
                kept -= quantity
        row = await store.fetch_one("SELECT available, frozen, sold FROM stock WHERE sku = 'a'")
        await store.close()
    assert row == (STOCK - kept, 0, kept)


@given(st.lists(st.lists(st.tuples(charges, ends), max_size=8), min_size=1, max_size=6))
async def test_money_is_never_overdrawn_and_always_adds_up(
    batches: Sequence[Sequence[tuple[tuple[int, int, str], str]]],
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        store = await open_store(f"sqlite:///{Path(directory) / 'users.db'}")
        await store.migrate("users", migrations_from("shop.users.migrations"))
        for user in (1, 2, 3):
            await store.write(
                lambda tx, u=user: tx.execute(  # type: ignore[misc]
                    "INSERT INTO wallets (user_id, currency, available, deposited) VALUES (?, 'EUR', ?, ?)",
                    (u, MONEY, MONEY),
                )
            )
        holds, number = WalletHolds(), 0
        spent = {1: 0, 2: 0, 3: 0}
        for batch in batches:
            tried = []
            for (user, amount, currency), end in batch:
                number += 1
                tried.append((Hold(number, Charge(user_id=user, amount_minor=amount, currency=currency)), end))
            answers = await store.write(lambda tx, t=tried: holds.try_(tx, [hold for hold, _ in t]))  # type: ignore[misc]
            accepted = []
            for (hold, end), answer in zip(tried, answers, strict=True):
                if answer is None:
                    accepted.append((hold, end))
                elif hold.payload.user_id == 4:
                    assert answer.code == "unknown_user"
                elif hold.payload.currency != "EUR":
                    assert answer.code == "currency_mismatch"
                else:
                    assert answer.code == "insufficient_funds"
            confirmed = [hold for hold, end in accepted if end == "confirm"]
            cancelled = [hold for hold, end in accepted if end == "cancel"]
            await store.write(lambda tx, c=confirmed: holds.confirm(tx, c))  # type: ignore[misc]
            await store.write(lambda tx, c=cancelled: holds.cancel(tx, c))  # type: ignore[misc]
            for hold in confirmed:
                spent[hold.payload.user_id] += hold.payload.amount_minor
        rows = await store.fetch_all("SELECT user_id, available, frozen, spent, deposited FROM wallets")
        await store.close()
    assert {row[0]: row[1:] for row in rows} == {u: (MONEY - spent[u], 0, spent[u], MONEY) for u in spent}
