"""Edge: the HTTP front of the shop. It checks tokens, sizes and shapes, and calls the services behind it.

There is no code here because there is nothing to decide here: routes, documents and checks come from the contracts.
"""

from __future__ import annotations

from dougong.app import App
from shop.inventory import Inventory
from shop.orders import Orders, Payments
from shop.users import Users

__all__ = ["app"]

app = App("edge", front=[Users, Inventory, Orders, Payments])
