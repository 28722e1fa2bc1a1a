"""Proof: what the shop claims, how to check it, and what it is measured against.

`rush` is the load (`dougong rush` finds it by entry point), `audit` compares the books of all databases with each other
and with what a generator saw acknowledged. `orders` is the claim about load, with `naive`, the service people start
from; `fulfilment` the one about orders that get stuck.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shop.proof._books import Before, OrderJournal, audit, is_at_rest, is_settled, look_before
    from shop.proof._claim import orders
    from shop.proof._fulfilment import fulfilment
    from shop.proof._ledgers import Intent
    from shop.proof._orders_file import read_orders
    from shop.proof._rush import OrderRush, rush

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

_MODULES = {
    "_books": ("Before", "OrderJournal", "audit", "is_at_rest", "is_settled", "look_before"),
    "_claim": ("orders",),
    "_fulfilment": ("fulfilment",),
    "_ledgers": ("Intent",),
    "_orders_file": ("read_orders",),
    "_rush": ("OrderRush", "rush"),
}


def __getattr__(name: str) -> object:
    """Loaded when asked for: experiments have dozens of processes, whose modules are below this one, and who need none
    of the shop (0.7 s of processor time each)."""
    for module, names in _MODULES.items():
        if name in names:
            value: object = getattr(importlib.import_module(f"shop.proof.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
