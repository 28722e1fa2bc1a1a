"""The people an empty shop starts with.

Customers `user-1@shop.example` … and two accounts of staff: `operator@shop.example` (may read the books, add products)
and `partner@shop.example` (a sales channel: may order on behalf of customers). All share one demo password: hashing ten
thousand different ones would take minutes. A shop for real customers sets `demo_users = 0` and gets none of these.
"""

from __future__ import annotations

import itertools

from dougong.clock import Clock
from dougong.store import Store, Tx
from shop.users._passwords import Passwords
from shop.users._settings import UsersSettings

__all__ = ["DEMO_PASSWORD", "OPERATOR_EMAIL", "PARTNER_EMAIL", "seed"]

DEMO_PASSWORD = "dougong-demo"  # noqa: S105 (public on purpose, see above)
OPERATOR_EMAIL = "operator@shop.example"
PARTNER_EMAIL = "partner@shop.example"


async def seed(store: Store, clock: Clock, passwords: Passwords, settings: UsersSettings) -> None:
    """Fill an empty database, once."""
    if not settings.demo_users or await store.fetch_one("SELECT 1 FROM users LIMIT 1") is not None:
        return
    password_hash, now_us, count = await passwords.hash(DEMO_PASSWORD), clock.now_us(), settings.demo_users
    staff = (
        (count + 1, OPERATOR_EMAIL, "Operator", password_hash, "operator", now_us),
        (count + 2, PARTNER_EMAIL, "Partner", password_hash, "partner", now_us),
    )
    customers = (
        (n, f"user-{n}@shop.example", f"Customer {n}", password_hash, "customer", now_us) for n in range(1, count + 1)
    )
    credit = settings.demo_credit_minor
    wallets = ((n, settings.currency, credit, credit) for n in range(1, count + 3))

    async def unit(tx: Tx) -> None:
        if await tx.fetch_one("SELECT 1 FROM users LIMIT 1") is not None:
            return  # another instance was first
        await tx.execute_many(
            "INSERT INTO users (id, email, name, password_hash, role, created_us) VALUES (?, ?, ?, ?, ?, ?)",
            itertools.chain(customers, staff),
        )
        await tx.execute_many(
            "INSERT INTO wallets (user_id, currency, available, deposited) VALUES (?, ?, ?, ?)", wallets
        )

    await store.write(unit)
