"""Fulfilment: follows confirmed orders and brings them to the customer: picking, shipped, delivered.

It learns of orders from their feed (at least once, in order) and keeps its position in its own database, in the same
transaction as the shipments that follow from it: nothing is lost or doubled by a crash.
"""

from __future__ import annotations

from dougong.app import App
from shop.fulfilment._work import FulfilmentSettings, follow_orders, move_shipments

__all__ = ["FulfilmentSettings", "app"]

app = App(
    "fulfilment",
    migrations="shop.fulfilment.migrations",
    settings=FulfilmentSettings,
    background=[follow_orders, move_shipments],
)
