"""Users: accounts, tokens and wallets; a participant in every order.

`Users` answers questions and issues tokens; `WalletHolds` is its part in transactions; both find users through
`user_core`, whose gateway knows in which of several databases each is. The one rule: available + frozen + spent =
deposited.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from dougong.app import App
from dougong.clock import Clock
from dougong.errors import Error
from dougong.shard import ShardedStore
from dougong.telemetry import get_logger
from shop.users._contract import (
    AddUpWallets,
    Charge,
    GetProfile,
    GetWallet,
    Login,
    Profile,
    Register,
    Token,
    UpdateProfile,
    Wallet,
    WalletBooks,
)
from shop.users._demo import DEMO_PASSWORD, OPERATOR_EMAIL, PARTNER_EMAIL, seed
from shop.users._holds import WalletHolds
from shop.users._passwords import Passwords
from shop.users._service import Users, profile_of
from shop.users._settings import UsersSettings
from shop.users.profile_cache import CachedProfiles, MemoryCache
from shop.users.user_core import UserGateway

__all__ = [
    "DEMO_PASSWORD",
    "OPERATOR_EMAIL",
    "PARTNER_EMAIL",
    "AddUpWallets",
    "Charge",
    "GetProfile",
    "GetWallet",
    "Login",
    "Profile",
    "Register",
    "Token",
    "UpdateProfile",
    "Users",
    "UsersSettings",
    "Wallet",
    "WalletBooks",
    "WalletHolds",
    "app",
]


log = get_logger(__name__)


async def gateway(sharded: ShardedStore, clock: Clock) -> AsyncIterator[UserGateway]:
    made = UserGateway(sharded, clock)
    await made.start()
    yield made
    await made.stop()


async def profiles(gateway: UserGateway, clock: Clock, settings: UsersSettings) -> AsyncIterator[CachedProfiles]:
    async def load(user_id: int) -> Profile | None:
        user = await gateway.get(user_id)
        return None if user is None else profile_of(user)

    cache = MemoryCache(clock, entries_max=settings.profiles_max)
    yield CachedProfiles(cache, load, clock, ttl_s=settings.profile_ttl_s)


async def sweeping(gateway: UserGateway, settings: UsersSettings) -> None:
    while True:
        await asyncio.sleep(settings.sweep_every_s)
        try:
            await gateway.sweep()
        except Error as error:
            log.warning("the index of e-mails is swept later", error=str(error))


async def passwords() -> AsyncIterator[Passwords]:
    made = Passwords()
    yield made
    made.close()


app = App(
    "users",
    services=[Users],
    participants=[WalletHolds],
    migrations="shop.users.migrations",
    settings=UsersSettings,
    sharded=True,
    provide=[passwords, gateway, profiles],
    prepare=[seed],
    background=[sweeping],
)
