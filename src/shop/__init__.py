"""The shop: a reference platform built only from Dougong's public API, and the example to copy from.

Five apps, each a process with a database of its own: `users`, `inventory`, `orders`, `fulfilment`, and `edge`, the HTTP
front. Orders take stock from inventory and money from users in one TCC transaction. `system.toml` names them all.
"""
