"""The shard gateway: whoever wants something of users comes through here, and need not know of their many databases.

- **Routing**: a user's rows are in bucket `id % 128`; `ShardedStore` knows where that is today, and has a breaker for
  each database, so that one which does not answer costs its own users and nobody else.
- **Ids**: minted for the bucket that the new user falls into, by `BucketIds`.
- **E-mails**: one in all databases, by a `UniqueIndex`; a new user falls into the bucket of the e-mail's entry, so that
  registering needs one database only.
- **Answers over all**: the wallets' books are added up by a scattered query.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import msgspec

from dougong.clock import Clock
from dougong.dao import DAO
from dougong.errors import Conflict, Invalid
from dougong.shard import (
    BucketIds,
    ModuloRouting,
    Query,
    ShardedStore,
    UniqueIndex,
    ask,
    buckets_of,
    hash_bucket,
    table_of,
    write_grouped,
)
from dougong.store import Tx
from dougong.telemetry import get_logger
from shop.users.user_core.entities import User, Wallet

__all__ = ["UserGateway"]

log = get_logger(__name__)

_FILLED_AT_ONCE = 1000
"""Users in one unit per database, and in memory."""
_BOOKS = ("count(*)", "sum(available)", "sum(frozen)", "sum(spent)", "sum(deposited)")


class UserGateway:
    """Users and their wallets. `start` before use; `stop` gives the minter's lease back."""

    def __init__(self, sharded: ShardedStore, clock: Clock) -> None:
        if sharded.routing.name != ModuloRouting.name:
            raise Invalid(
                f"users' ids say their bucket, so it takes modulo routing, not {sharded.routing.name}",
                code="unknown_routing",
            )
        self._sharded = sharded
        self._clock = clock
        self._users = DAO(User, sharded)
        self._wallets = DAO(Wallet, sharded)
        self._ids = BucketIds(sharded.metadata, holder="users", clock=clock)
        self._emails = UniqueIndex(sharded, "email", table_of(User), "email")

    async def start(self) -> None:
        """Say what moves with a bucket, open the index of e-mails, lease a minter."""
        await self._sharded.declare(table_of(User), table_of(Wallet))
        await self._emails.start()
        await self._ids.start()

    async def stop(self) -> None:
        """Others may mint under our number."""
        await self._ids.stop()

    async def register(self, email: str, name: str, password_hash: str, wallet: Wallet, *, role: str) -> User:
        """A new account with its wallet (whose `user_id` is filled in). `Conflict` (`email_taken`)."""
        user_id = await self._ids.one(hash_bucket(email))
        user = User(user_id, email, name, password_hash, role, self._clock.now_us())
        filled = msgspec.structs.replace(wallet, user_id=user_id)

        async def unit(tx: Tx) -> None:
            await self._users.create(user, tx=tx)
            await self._wallets.create(filled, tx=tx)

        try:
            await self._emails.write(user_id, email, unit)
        except Conflict as conflict:
            if conflict.code != "unique_violated":
                raise
            raise Conflict(
                f"{email} has an account already; log in, or register another address", code="email_taken"
            ) from None
        return user

    async def find(self, email: str) -> User | None:
        """Whose e-mail (lower case) this is."""
        user_id = await self._emails.find(email)
        return await self._users.get(user_id) if isinstance(user_id, int) else None

    async def get(self, user_id: int) -> User | None:
        """A user."""
        return await self._users.get(user_id)

    async def rename(self, user_id: int, name: str) -> None:
        """Another display name; nothing happens when there is no such user."""

        async def unit(tx: Tx) -> None:
            user = await self._users.get(user_id, tx=tx)
            if user is not None:
                await self._users.update(msgspec.structs.replace(user, name=name), tx=tx)

        await self._sharded.store_of(user_id).write(unit)

    async def wallet(self, user_id: int) -> Wallet | None:
        """A user's wallet."""
        return await self._wallets.get(user_id)

    async def books(self) -> tuple[int, int, int, int, int]:
        """Over all wallets: how many, available, frozen, spent, deposited. Whole, or the error of who is missing."""
        answer = await ask(self._sharded, Query(table=table_of(Wallet), select=_BOOKS), scatter=True)
        ((count, *sums),) = answer.rows
        return (int(count or 0), *(int(number or 0) for number in sums))  # type: ignore[return-value]

    async def fill(self, accounts: Iterable[tuple[User, Wallet]]) -> None:
        """The first users; their ids are as given. Who is there already stays.

        Safe to repeat, and by several at once. All e-mails there are get into the index, so call it before serving,
        with nobody if there is nobody to begin with.
        """

        async def unit(tx: Tx, some: list[tuple[User, Wallet]]) -> int:
            there = await self._users.get_many([user.id for user, _ in some], tx=tx)
            new = [account for account in some if account[0].id not in there]
            await self._users.create_many((user for user, _ in new), tx=tx)
            return await self._wallets.create_many((wallet for _, wallet in new), tx=tx)

        made, rest = 0, iter(accounts)
        while some := list(itertools.islice(rest, _FILLED_AT_ONCE)):
            buckets = await buckets_of(self._sharded, [user.id for user, _ in some])
            made += sum((await write_grouped(self._sharded, some, buckets, unit)).whole())
        if made or not self._emails.ready:
            filled = await self._emails.backfill()
            for email, user_id in itertools.islice(filled.duplicates, 10):
                log.error("two users have one e-mail", email=email, user_id=user_id)

    async def sweep(self) -> None:
        """Drop what registrations that did not come to an end left in the index."""
        swept = await self._emails.sweep()
        log.info("index of e-mails swept", entries=swept.entries, orphans=swept.orphans)
