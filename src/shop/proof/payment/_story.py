"""External payments and the end of their holds, decline, void, cancellation and question, in every order.

All of them decide the same row, so one of them wins. In the end goods and money are where the winner says, whoever was
killed meanwhile.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence

from dougong.simulation import Chaos, Process, Story, World
from dougong.store import MemoryDatabase, migrations_from
from shop.proof.payment import _processes as processes
from shop.proof.payment._company import Company
from shop.proof.payment._customers import SKUS, USERS, Customers
from shop.proof.payment._judge import AUDIT, judge, left_waiting
from shop.proof.payment._without import SAFEGUARDS
from shop.provider import Intents

__all__ = ["story"]

STORM_S = 14.0
SETTLED_S = 150.0
"""After the storm, and when the last customer has gone, everything must be over by then."""
ECHO_S = 4.0
"""For what still comes when everything seems to be over."""
STOCK = 7
PRICES_MINOR = {"a": 100, "b": 250}
DEPOSIT_MINOR = 1500


class _Tale:
    """One telling."""

    def __init__(self, world: World, without: str) -> None:
        self.world = world
        self.without = without
        self.books, self.stock, self.wallets = (world.database(name) for name in ("orders", "inventory", "users"))
        self.books.set_up(_set_up_books)
        self.stock.set_up(_set_up_stock)
        self.wallets.set_up(_set_up_wallets)
        if without == "compare-and-set":
            self.books.memory.run_script("DROP INDEX dougong_transitions_versions")
        self.provider = Intents()
        self.company: Company | None = None
        self.gone = asyncio.Event()
        """The last customer."""

    async def tell(self) -> Sequence[str]:
        world = self.world
        world.node("inventory").start(processes.inventory)
        world.node("users").start(processes.users)
        for name in ("orders-1", "orders-2"):
            world.node(name).start(functools.partial(processes.orders, without=self.without))
        world.node("provider").start(self._provider)
        world.node("warehouse").start(functools.partial(processes.warehouse, world=world))
        world.node("customers", crashes=False).start(self._customers)
        await asyncio.sleep(STORM_S)
        world.heal()
        await self.gone.wait()
        for _ in range(int(SETTLED_S)):
            await asyncio.sleep(1.0)
            if not self._busy():
                await asyncio.sleep(ECHO_S)
                if not self._busy():
                    break
        return judge(self.books, self.stock, self.wallets, self.provider, world.history)

    def _busy(self) -> bool:
        return bool((self.company and self.company.under_way) or left_waiting(self.books))

    async def _provider(self, process: Process) -> None:
        self.company = Company(self.world, process, self.provider, processes.SECRET, processes.SHOPS)
        await self.company.open()

    async def _customers(self, process: Process) -> None:
        await Customers(self.world, process).all()
        self.gone.set()


def _set_up_books(books: MemoryDatabase) -> None:
    books.migrate("orders", migrations_from("shop.orders.migrations"), 0)
    books.migrate("dougong.statemachine", migrations_from("dougong.statemachine.migrations"), 0)
    books.migrate("dougong.tcc.log", migrations_from("dougong.tcc.migrations.log"), 0)
    books.run_script(AUDIT)


def _set_up_stock(stock: MemoryDatabase) -> None:
    stock.migrate("inventory", migrations_from("shop.inventory.migrations"), 0)
    stock.migrate("dougong.tcc.fence", migrations_from("dougong.tcc.migrations.fence"), 0)
    for sku in SKUS:
        stock.run_script(
            "INSERT INTO stock (sku, name, price_minor, currency, available, total) "  # noqa: S608 (our own constants)
            f"VALUES ('{sku}', '{sku}', {PRICES_MINOR[sku]}, 'EUR', {STOCK}, {STOCK})"
        )


def _set_up_wallets(wallets: MemoryDatabase) -> None:
    wallets.migrate("users", migrations_from("shop.users.migrations"), 0)
    wallets.migrate("dougong.tcc.fence", migrations_from("dougong.tcc.migrations.fence"), 0)
    for user in USERS:
        wallets.run_script(
            "INSERT INTO wallets (user_id, currency, available, deposited) "  # noqa: S608 (our own constants)
            f"VALUES ({user}, 'EUR', {DEPOSIT_MINOR}, {DEPOSIT_MINOR})"
        )


async def _tell(world: World, without: str) -> Sequence[str]:
    return await _Tale(world, without).tell()


story = Story(
    name="payment",
    title="external payments and their timeouts race, on the shop's own code",
    tell=_tell,
    safeguards=SAFEGUARDS,
    chaos=Chaos(
        crash_every_s=9.0,
        down_s=0.8,
        partition_every_s=60.0,
        partition_s=2.0,
        request_lost=0.03,
        answer_lost=0.04,
        request_twice=0.05,
        request_late=0.03,
        stream_broken=0.01,
        write_slow=0.02,
        disk_full=0.015,
        disk_locked=0.01,
        disk_gone_every_s=20.0,
        disk_gone_s=1.0,
        clock_skew_s=2.0,
        clock_drift=0.001,
        clock_jump_every_s=15.0,
        clock_jump_s=2.0,
    ),
)
