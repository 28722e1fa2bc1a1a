"""What orders does by the clock: gives back what nobody pays for, reports the day's sales, compares books.

Each job may run twice, or again after it half succeeded, and leaves the same behind.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from pathlib import Path

import msgspec

from dougong.app import DataDirectory
from dougong.clock import Clock
from dougong.errors import Conflict, Error
from dougong.jobs import Backoff, Cron, Every, Schedule, current_job, job, needs
from dougong.store import Store
from dougong.tcc import Coordinator
from dougong.telemetry import get_logger
from shop.inventory import Inventory, TakeStock
from shop.orders import _ledger as ledger
from shop.orders._report import sales_of, to_csv, to_html, write_atomically
from shop.orders._settings import OrdersSettings

__all__ = ["JOBS", "SCHEDULES", "Reconciled", "reconcile_stock", "report_sales", "sweep_unpaid"]

SWEEP_MAX = 500
LATE_S = 60.0
"""The hold's own end has this long to do its work first."""

WEEK_DAYS = 7

log = get_logger(__name__)


@job(timeout_s=60, unique=True)
async def sweep_unpaid(
    store: Store = needs(Store),
    clock: Clock = needs(Clock),
    transactions: Coordinator = needs(Coordinator),
    settings: OrdersSettings = needs(OrdersSettings),
) -> int:
    """Cancel orders that should have been paid by now; how many. The end of their hold does so, unless nobody who keeps
    it was there: this is the net below it, and it is a fault if it ever catches much."""
    before_us = clock.now_us() - int((settings.pay_within_s + LATE_S) * 1e6)
    unpaid = await store.read(lambda tx: ledger.unpaid(tx, before_us, SWEEP_MAX))
    swept = 0
    for order_id in unpaid:
        try:
            await transactions.cancel([order_id], code="expired", message="it was not paid in time")
            swept += 1
        except Error as error:  # paid at this moment, say: the transaction's log knows
            log.info("an unpaid order is not swept", order=order_id, reason=str(error))
    if swept:
        log.warning("orders were swept whose hold should have ended", count=swept, first=unpaid[0])
    return swept


@job(timeout_s=600, retries=10)
async def report_sales(
    day: str = "", store: Store = needs(Store), data: DataDirectory = needs(DataDirectory)
) -> list[str]:
    """Write `reports/sales-DAY.csv` and `.html` into the data directory; their names. Of the day before it is due, and
    of those in the week before that have none, unless a day is named: who was down for days makes up for all of them,
    though all of these jobs are due when he is back."""
    of = dt.date.fromisoformat(day) if day else _day_before(current_job().claimed.due_us)
    folder = Path(data, "reports")
    days = [of] if day else await asyncio.to_thread(days_owed, folder, of)
    names = []
    for of in days:
        sales = await sales_of(store, of)
        for ending, text in (("csv", to_csv(sales)), ("html", to_html(of, sales))):
            path = folder / f"sales-{of}.{ending}"
            await asyncio.to_thread(write_atomically, path, text)
            names.append(path.name)
    return names


def days_owed(folder: Path, last: dt.date) -> list[dt.date]:
    """The last day, and those of its week that have no report (the page is written last)."""
    before = [last - dt.timedelta(days=n) for n in range(WEEK_DAYS - 1, 0, -1)]
    return [*(day for day in before if not (folder / f"sales-{day}.html").exists()), last]


def _day_before(due_us: int) -> dt.date:
    return dt.datetime.fromtimestamp(due_us / 1e6, dt.UTC).date() - dt.timedelta(days=1)


class Reconciled(msgspec.Struct, frozen=True):
    """What both books say is sold."""

    ordered: int
    booked: int


@job(timeout_s=600, retries=5, backoff=Backoff(first_s=30.0, max_s=600.0))
async def reconcile_stock(store: Store = needs(Store), inventory: Inventory = needs(Inventory)) -> Reconciled:
    """Compare what orders sold with what inventory booked as sold. Orders move while both are read, so a difference
    is looked at again later; one that stays is a dead letter, for somebody to look at."""
    ordered = await ledger.items_sold(store)
    books = await inventory.take_stock(TakeStock())
    if books.sold != ordered:
        raise Conflict(f"{ordered:,} items in accepted orders, {books.sold:,} booked as sold", code="books_disagree")
    return Reconciled(ordered, books.sold)


JOBS = (sweep_unpaid, report_sales, reconcile_stock)
SCHEDULES: Sequence[Schedule] = (
    Schedule("sweep-unpaid", Every(300), sweep_unpaid.call()),
    Schedule("report-sales", Cron("10 0 * * *"), report_sales.call(), catch_up_s=WEEK_DAYS * 86_400.0),
    Schedule("reconcile-stock", Cron("30 4 * * *"), reconcile_stock.call()),
)
