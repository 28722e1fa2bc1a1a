"""The people an empty shop starts with.

Customers `user-1@shop.example` … and two accounts of staff: `operator@shop.example` (may read the books, add products)
and `partner@shop.example` (a sales channel: may order on behalf of customers). All share one demo password: hashing ten
thousand different ones would take minutes. A shop for real customers sets `demo_users = 0` and gets none of these.
"""

from __future__ import annotations

from collections.abc import Iterator

from dougong.clock import Clock
from shop.users._passwords import Passwords
from shop.users._settings import UsersSettings
from shop.users.user_core import User, UserGateway, Wallet

__all__ = ["DEMO_PASSWORD", "OPERATOR_EMAIL", "PARTNER_EMAIL", "seed"]

DEMO_PASSWORD = "dougong-demo"  # noqa: S105 (public on purpose, see above)
OPERATOR_EMAIL = "operator@shop.example"
PARTNER_EMAIL = "partner@shop.example"


async def seed(gateway: UserGateway, clock: Clock, passwords: Passwords, settings: UsersSettings) -> None:
    """Fill empty databases, once."""
    count, credit = settings.demo_users, settings.demo_credit_minor
    if count and await gateway.get(count + 1) is None:
        people = _people(count, await passwords.hash(DEMO_PASSWORD), clock.now_us())
        await gateway.fill((user, Wallet(user.id, settings.currency, credit, deposited=credit)) for user in people)
    else:
        await gateway.fill(())


def _people(count: int, password_hash: str, now_us: int) -> Iterator[User]:
    for n in range(1, count + 1):
        yield User(n, f"user-{n}@shop.example", f"Customer {n}", password_hash, "customer", now_us)
    yield User(count + 1, OPERATOR_EMAIL, "Operator", password_hash, "operator", now_us)
    yield User(count + 2, PARTNER_EMAIL, "Partner", password_hash, "partner", now_us)
