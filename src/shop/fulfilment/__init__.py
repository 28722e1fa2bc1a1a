"""Fulfilment: follows confirmed orders and brings them to the customer: picking, shipped, delivered.

It learns of orders from their feed (at least once, in order) and keeps its position in its own database, in the same
transaction as the shipments that follow from it: nothing is lost or doubled by a crash.
"""

from __future__ import annotations

from dougong.app import App, Glance, StatusRow, StatusTable
from dougong.store import Store
from shop.fulfilment import _warehouse as warehouse
from shop.fulfilment._notices import LogSender, Sender, notify
from shop.fulfilment._stalls import Stalls
from shop.fulfilment._work import FulfilmentSettings, follow_orders, move_shipments

__all__ = ["FulfilmentSettings", "Stalls", "app"]


def backlog(store: Store) -> Glance:
    """How far fulfilment is behind, for the status page."""

    async def glance() -> list[StatusTable]:
        rows = [StatusRow(cells=[state, str(count)]) for state, count in await store.read(warehouse.under_way)]
        return [StatusTable(title="Shipments under way", columns=["state", "count"], rows=rows)]

    return glance


def sender() -> Sender:
    return LogSender()


app = App(
    "fulfilment",
    migrations="shop.fulfilment.migrations",
    settings=FulfilmentSettings,
    jobs=[notify],
    provide=[sender],
    background=[follow_orders, move_shipments],
    glance=backlog,
)
