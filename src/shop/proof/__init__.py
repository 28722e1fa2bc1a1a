"""Proof: what the shop claims, how to check it, and what it is measured against.

`rush` is the load (`dougong rush` finds it by entry point), `audit` compares the books of all databases with each other
and with what a generator saw acknowledged. `orders` is the claim about load, with `naive`, the service people start
from; `fulfilment` the one about orders that get stuck.
"""

from shop.proof._books import Before, OrderJournal, audit, is_at_rest, is_settled, look_before
from shop.proof._claim import orders
from shop.proof._fulfilment import fulfilment
from shop.proof._ledgers import Intent
from shop.proof._orders_file import read_orders
from shop.proof._rush import OrderRush

__all__ = [
    "Before",
    "Intent",
    "OrderJournal",
    "OrderRush",
    "audit",
    "fulfilment",
    "is_at_rest",
    "is_settled",
    "look_before",
    "orders",
    "read_orders",
    "rush",
]

rush = OrderRush()
