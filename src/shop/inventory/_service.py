"""The catalogue and the stock, as others see them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dougong.contract import Service, batched, rpc
from dougong.errors import Error, NotFound
from dougong.store import Row, Store, Tx
from shop.inventory._contract import (
    Counts,
    GetProduct,
    GetStock,
    ListProducts,
    Product,
    ProductPage,
    PutProduct,
    Stock,
    TakeStock,
)

__all__ = ["Inventory"]


class Inventory(Service, package="shop.v1"):
    """What can be ordered, and how much of it is available, frozen for an order, or sold."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @rpc(http="GET /v1/stock/{sku}", public=True)
    async def get_stock(self, request: GetStock) -> Stock:
        """Stock of one SKU now."""
        row = await self._store.fetch_one(
            "SELECT sku, available, frozen, sold, total FROM stock WHERE sku = ?", (request.sku,)
        )
        if row is None:
            raise NotFound(f"there is no SKU {request.sku!r}", code="unknown_sku", sku=request.sku)
        sku, available, frozen, sold, total = row
        return Stock(sku=sku, available=available, frozen=frozen, sold=sold, total=total)  # type: ignore[arg-type]

    @batched(http="GET /v1/products/{sku}", max_batch=1000, public=True)
    async def get_product(self, requests: Sequence[GetProduct]) -> Sequence[Product | Error]:
        """One product: its name, its price and how many can be had."""
        rows = await self._store.fetch_all(
            "SELECT sku, name, price_minor, currency, available FROM stock "
            "WHERE sku IN (SELECT value FROM json_each(?))",
            (msgspec.json.encode([request.sku for request in requests]).decode(),),
        )
        found = {row[0]: _product(row) for row in rows}
        return [
            found.get(r.sku) or NotFound(f"there is no SKU {r.sku!r}", code="unknown_sku", sku=r.sku) for r in requests
        ]

    @rpc(http="GET /v1/products", public=True)
    async def list_products(self, request: ListProducts) -> ProductPage:
        """Products in SKU order, a page at a time."""
        rows = await self._store.fetch_all(
            "SELECT sku, name, price_minor, currency, available FROM stock WHERE sku > ? ORDER BY sku LIMIT ?",
            (request.after, request.limit),
        )
        items = [_product(row) for row in rows]
        return ProductPage(items=items, next=items[-1].sku if len(items) == request.limit else "")

    @batched(http="PUT /v1/products/{sku}", max_batch=1000, idempotent=False, roles=("operator",))
    async def put_product(self, requests: Sequence[PutProduct]) -> Sequence[Product | Error]:
        """Add products, or change their name and price and add stock."""

        async def unit(tx: Tx) -> None:
            await put_products(tx, requests)

        await self._store.write(unit)
        return await self.get_product.many([GetProduct(sku=request.sku) for request in requests])

    @rpc(http="GET /v1/books/stock", roles=("operator",), timeout_s=30)
    async def take_stock(self, request: TakeStock) -> Counts:
        """The books added up over all SKUs."""
        row = await self._store.fetch_one(
            "SELECT count(*), coalesce(sum(available), 0), coalesce(sum(frozen), 0), coalesce(sum(sold), 0), "
            "coalesce(sum(total), 0) FROM stock"
        )
        assert row is not None  # an aggregate always has one row
        skus, available, frozen, sold, total = row
        return Counts(skus=skus, available=available, frozen=frozen, sold=sold, total=total)  # type: ignore[arg-type]


def _product(row: Row) -> Product:
    sku, name, price, currency, available = row
    return Product(sku=sku, name=name, price_minor=price, currency=currency, available=available)  # type: ignore[arg-type]


async def put_products(tx: Tx, products: Sequence[PutProduct]) -> None:
    """Insert or change; `restock` adds to available and total alike, so that the books stay true."""
    await tx.execute_many(
        "INSERT INTO stock (sku, name, price_minor, currency, available, total) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (sku) DO UPDATE SET name = excluded.name, price_minor = excluded.price_minor, "
        "currency = excluded.currency, available = available + excluded.available, "
        "total = total + excluded.total, version = version + 1",
        [(p.sku, p.name, p.price_minor, p.currency, p.restock, p.restock) for p in products],
    )
