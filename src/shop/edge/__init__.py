"""Edge: the HTTP front of the shop. It checks tokens, sizes and shapes, and calls the services behind it.

There is no code here because there is nothing to decide here: routes, documents and checks come from the contracts, and
which sessions have ended comes from users.
"""

from __future__ import annotations

from dougong.app import App
from shop.inventory import Inventory
from shop.orders import Orders, Payments
from shop.users import Users, follow_ended_sessions, learn_ended_sessions

__all__ = ["app"]

app = App(
    "edge",
    front=[Users, Inventory, Orders, Payments],
    prepare=[learn_ended_sessions],
    background=[follow_ended_sessions],
)
