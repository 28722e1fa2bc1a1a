"""What inventory says on the wire."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from dougong.contract import Message

__all__ = [
    "Counts",
    "GetProduct",
    "GetStock",
    "ListProducts",
    "Product",
    "ProductPage",
    "PutProduct",
    "Reserve",
    "SkuName",
    "Stock",
    "TakeStock",
]

SkuName = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$(?!\n)")]


class GetProduct(Message):
    """Which SKU."""

    sku: SkuName


class GetStock(Message):
    """Which SKU."""

    sku: SkuName


class Stock(Message):
    """Stock of one SKU: available to sell, frozen for orders in progress, sold; the three add up to total."""

    sku: str
    available: int
    frozen: int
    sold: int
    total: int


class Product(Message):
    """What can be ordered, and for how much. Prices are in minor units (cents)."""

    sku: str
    name: str
    price_minor: int
    currency: str
    available: int


class ListProducts(Message):
    """A page of products, by SKU, after the one named."""

    after: Annotated[str, Meta(max_length=64)] = ""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class ProductPage(Message):
    """Products in SKU order; `next` goes into `after` for the next page and is empty on the last."""

    items: list[Product]
    next: str = ""


class PutProduct(Message):
    """Add a product, or change its name and price and add `restock` to its stock."""

    sku: SkuName
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    price_minor: Annotated[int, Meta(ge=1, le=1_000_000_000)]
    currency: Annotated[str, Meta(pattern=r"^[A-Z]{3}$(?!\n)")] = "EUR"
    restock: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 0


class TakeStock(Message):
    """Add up the books."""


class Counts(Message):
    """The books over all SKUs."""

    skus: int
    available: int
    frozen: int
    sold: int
    total: int


class Reserve(Message):
    """A branch of an order: SKUs and how many of each. Negative quantities give sold stock back."""

    lines: list[tuple[str, int]]
