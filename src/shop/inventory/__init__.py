"""Inventory: SKUs, what is available, frozen and sold; a participant in every order.

`Inventory` answers questions; `StockHolds` is its part in transactions. The one rule: available + frozen + sold =
total.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from dougong.app import App
from dougong.store import Store, Tx
from shop.inventory._catalogue import demo_products, read_products
from shop.inventory._contract import (
    Counts,
    GetProduct,
    GetStock,
    ListProducts,
    Product,
    ProductPage,
    PutProduct,
    Reserve,
    SkuName,
    Stock,
    TakeStock,
)
from shop.inventory._holds import StockHolds
from shop.inventory._service import Inventory, put_products
from shop.users import follow_ended_sessions

__all__ = [
    "Counts",
    "GetProduct",
    "GetStock",
    "Inventory",
    "InventorySettings",
    "ListProducts",
    "Product",
    "ProductPage",
    "PutProduct",
    "Reserve",
    "SkuName",
    "Stock",
    "StockHolds",
    "TakeStock",
    "app",
]


class InventorySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an empty database is filled with."""

    catalogue: str = ""
    """A CSV file of products; empty for the made-up catalogue."""
    demo_products: int = 1000


async def seed(store: Store, settings: InventorySettings) -> None:
    """Fill an empty catalogue, once."""
    products = read_products(Path(settings.catalogue)) if settings.catalogue else demo_products(settings.demo_products)

    async def unit(tx: Tx) -> None:
        if await tx.fetch_one("SELECT 1 FROM stock LIMIT 1") is None:
            await put_products(tx, products)

    await store.write(unit)


app = App(
    "inventory",
    services=[Inventory],
    participants=[StockHolds],
    migrations="shop.inventory.migrations",
    settings=InventorySettings,
    prepare=[seed],
    background=[follow_ended_sessions],
)
