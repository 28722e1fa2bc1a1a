"""What orders does by the clock: sweep, report, reconcile."""

from __future__ import annotations

import asyncio
import csv
import datetime as dt
from pathlib import Path

import pytest
from tests.shop.till import PRICE_MINOR, counter, gates, order, shop_stores

from dougong.app import DataDirectory
from dougong.clock import Clock, ManualClock
from dougong.errors import Conflict, Invalid
from dougong.store import Store
from shop.inventory import Inventory
from shop.orders import OrdersSettings, PlacedOrder
from shop.orders._jobs import JOBS, LATE_S, SCHEDULES, days_owed, reconcile_stock, report_sales, sweep_unpaid
from shop.orders._report import Sales, to_html, write_atomically

NOON = dt.datetime(2026, 3, 4, 12, tzinfo=dt.UTC)


def at(moment: dt.datetime) -> ManualClock:
    return ManualClock(now_us=int(moment.timestamp() * 1e6))


async def states(store: Store) -> list[object]:
    return [row[0] for row in await store.fetch_all("SELECT state FROM orders ORDER BY id")]


async def sold(inventory: Store) -> int:
    """What inventory has booked so far; it hears of it after the order is accepted."""
    row = await inventory.fetch_one("SELECT sum(sold) FROM stock")
    assert row is not None
    return int(str(row[0]))


async def test_what_nobody_pays_for_is_given_back_when_nobody_else_does_so(tmp_path: Path) -> None:
    settings, clock = OrdersSettings(provider_url="http://127.0.0.1:1"), at(NOON)
    async with shop_stores(tmp_path) as (inventory, users):
        participants = await gates(inventory, users)
        async with counter(
            tmp_path, inventory, participants, clock=clock, orders_settings=settings, at_work=False
        ) as one:

            async def sweep() -> int:
                made: Clock = clock
                return await sweep_unpaid(one.store, made, one.coordinator, settings)

            await one.place(order(external=True), order(user=2))
            assert await states(one.store) == ["awaiting_payment", "confirmed"]
            clock.advance(settings.pay_within_s + LATE_S - 1)
            assert await sweep() == 0  # it has its time, and the end of its hold a little more
            clock.advance(2)
            assert await sweep() == 1
            assert await states(one.store) == ["cancelled", "confirmed"]
            assert await sweep() == 0


async def test_a_days_sales_are_two_files(tmp_path: Path) -> None:
    clock = at(NOON)
    async with shop_stores(tmp_path) as (inventory, users):
        participants = await gates(inventory, users)
        async with counter(tmp_path, inventory, participants, clock=clock, at_work=False) as one:
            await one.place(order(quantity=2), order(user=2, sku="nut"), order(user=3, quantity=101))
            clock.advance(86_400)
            await one.place(order(user=4))
            names = await report_sales("2026-03-04", one.store, DataDirectory(tmp_path))
            assert await report_sales("2026-03-04", one.store, DataDirectory(tmp_path)) == names  # twice is the same
    assert names == ["sales-2026-03-04.csv", "sales-2026-03-04.html"]
    folder = tmp_path / "reports"
    assert sorted(path.name for path in folder.iterdir()) == names
    rows = list(csv.DictReader((folder / names[0]).read_text().splitlines()))
    assert [(row["state"], row["orders"], row["items"]) for row in rows] == [
        ("confirmed", "2", "3"),
        ("refused", "1", "101"),
    ]
    assert rows[0]["total"] == f"{3 * PRICE_MINOR / 100:.2f}"
    assert "<td>confirmed</td><td>2</td>" in (folder / names[1]).read_text()


async def test_without_a_day_the_report_is_of_the_day_before_its_time() -> None:
    with pytest.raises(Invalid, match="no job is running here"):
        await report_sales()
    assert "<td>&lt;b&gt;</td>" in to_html(NOON.date(), [Sales("<b>", "confirmed", 1, 1, 5)])


def test_days_that_nobody_reported_are_made_up_for(tmp_path: Path) -> None:
    last = dt.date(2026, 3, 8)
    assert [day.day for day in days_owed(tmp_path, last)] == [2, 3, 4, 5, 6, 7, 8]
    for day in (2, 3, 5, 8):
        write_atomically(tmp_path / f"sales-2026-03-{day:02}.html", "")
    write_atomically(tmp_path / "sales-2026-03-06.csv", "")  # its page is missing: it was killed between the two
    assert [day.day for day in days_owed(tmp_path, last)] == [4, 6, 7, 8]


def test_a_report_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "sales.csv"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert path.read_text() == "old"


async def test_books_that_disagree_are_told(tmp_path: Path) -> None:
    async with shop_stores(tmp_path) as (inventory, users):
        participants = await gates(inventory, users)
        async with counter(tmp_path, inventory, participants, at_work=False) as one:
            placed = await one.place(order(quantity=3), order(user=2, sku="nut"))
            assert all(isinstance(one, PlacedOrder) for one in placed)
            books = Inventory(inventory)
            async with asyncio.timeout(60):
                while await sold(inventory) < 4:
                    await asyncio.sleep(0.01)
            done = await reconcile_stock(one.store, books)
            assert (done.ordered, done.booked) == (4, 4)
            lost = "UPDATE stock SET sold = sold - 1, available = available + 1 WHERE sku = 'bolt'"
            await inventory.write(lambda tx: tx.execute(lost))
            with pytest.raises(Conflict, match="4 items in accepted orders, 3 booked as sold"):
                await reconcile_stock(one.store, books)


def test_everything_by_the_clock_is_a_job_of_the_app() -> None:
    assert {schedule.call.job for schedule in SCHEDULES} == {job.name for job in JOBS}
