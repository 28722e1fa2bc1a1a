"""Users: accounts, sessions and wallets; a participant in every order.

`Users` answers questions and logs people in; `WalletHolds` is its part in transactions; both find users through
`user_core`, whose gateway knows in which of several databases each is. The one rule: available + frozen + spent =
deposited. Apps that take users' tokens run `learn_ended_sessions` and `follow_ended_sessions`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

from dougong.app import App, SystemName
from dougong.clock import Clock
from dougong.errors import Error
from dougong.rpc import EndedSessions, JwtIssuer
from dougong.shard import ShardedStore
from dougong.telemetry import get_logger
from shop.users._contract import (
    AddUpWallets,
    ChangePassword,
    Charge,
    EndedPage,
    EndedSession,
    EndedSince,
    EndSessions,
    FeedMark,
    GetProfile,
    GetWallet,
    ListSessions,
    LoggedOut,
    Login,
    LogOut,
    LogOutEverywhere,
    Profile,
    Refresh,
    Register,
    SessionInfo,
    SessionList,
    Token,
    UpdateProfile,
    Wallet,
    WalletBooks,
)
from shop.users._demo import DEMO_PASSWORD, OPERATOR_EMAIL, PARTNER_EMAIL, seed
from shop.users._following import follow_ended_sessions, learn_ended_sessions
from shop.users._holds import WalletHolds
from shop.users._passwords import Passwords
from shop.users._service import Users, profile_of
from shop.users._settings import UsersSettings
from shop.users.auth_jwt import (
    Auth,
    EndedFeed,
    EndedWatch,
    LoginLimits,
    LoginThrottle,
    Rate,
    SessionRules,
    Sessions,
)
from shop.users.profile_cache import CachedProfiles, open_cache
from shop.users.user_core import UserGateway

__all__ = [
    "DEMO_PASSWORD",
    "OPERATOR_EMAIL",
    "PARTNER_EMAIL",
    "AddUpWallets",
    "ChangePassword",
    "Charge",
    "EndSessions",
    "EndedPage",
    "EndedSession",
    "EndedSince",
    "FeedMark",
    "GetProfile",
    "GetWallet",
    "ListSessions",
    "LogOut",
    "LogOutEverywhere",
    "LoggedOut",
    "Login",
    "Profile",
    "Refresh",
    "Register",
    "SessionInfo",
    "SessionList",
    "Token",
    "UpdateProfile",
    "Users",
    "UsersSettings",
    "Wallet",
    "WalletBooks",
    "WalletHolds",
    "app",
    "follow_ended_sessions",
    "learn_ended_sessions",
]


log = get_logger(__name__)

_PURGED_AT_ONCE = 500
"""Rows in one unit of one database."""
_PURGE_PAUSE_S = 0.05
"""For others, between two of them."""


async def gateway(sharded: ShardedStore, clock: Clock) -> AsyncIterator[UserGateway]:
    made = UserGateway(sharded, clock)
    await made.start()
    yield made
    await made.stop()


async def profiles(
    gateway: UserGateway, clock: Clock, settings: UsersSettings, system: SystemName
) -> AsyncIterator[CachedProfiles]:
    async def load(user_id: int) -> Profile | None:
        user = await gateway.get(user_id)
        return None if user is None else profile_of(user)

    async with open_cache(
        settings.profile_cache_url,
        clock,
        system=system,
        entries_max=settings.profiles_max,
        timeout_s=settings.profile_cache_timeout_s,
    ) as cache:
        yield CachedProfiles(cache, load, clock, ttl_s=settings.profile_ttl_s)


def ended_feed(ended: EndedSessions, clock: Clock) -> EndedFeed:
    return EndedFeed(ended, clock)


def ended_watch(sharded: ShardedStore, feed: EndedFeed, clock: Clock) -> EndedWatch:
    return EndedWatch(sharded, feed, clock)


async def sessions(sharded: ShardedStore, clock: Clock, settings: UsersSettings, feed: EndedFeed) -> Sessions:
    rules = SessionRules(
        access_s=settings.token_ttl_s,
        grace_s=settings.refresh_grace_s,
        idle_s=settings.session_idle_s,
        absolute_s=settings.session_max_s,
        per_user_max=settings.sessions_max,
    )
    made = Sessions(sharded, clock, rules, feed.told)
    await made.start()
    return made


def throttle(settings: UsersSettings) -> LoginThrottle:
    account = Rate(settings.login_failures_per_account, settings.login_account_every_s)
    address = Rate(settings.login_failures_per_address, settings.login_address_every_s)
    return LoginThrottle(
        LoginLimits(address=address, account=account, known=account, keys_max=settings.logins_remembered_max)
    )


def auth(
    gateway: UserGateway,
    sessions: Sessions,
    issuer: JwtIssuer,
    passwords: Passwords,
    throttle: LoginThrottle,
    clock: Clock,
) -> Auth:
    return Auth(gateway, sessions, issuer, passwords, throttle, clock)


async def looking(watch: EndedWatch) -> None:
    """Before serving: which tokens are not to be believed."""
    await watch.look()


async def watching(watch: EndedWatch, settings: UsersSettings) -> None:
    while True:
        await asyncio.sleep(settings.ended_every_s * random.uniform(0.5, 1.5))
        await watch.look()


async def purging(sessions: Sessions, settings: UsersSettings) -> None:
    while True:
        await asyncio.sleep(settings.purge_every_s * random.uniform(0.5, 1.5))
        try:
            removed = 1
            while removed:
                removed = await sessions.purge(_PURGED_AT_ONCE)
                await asyncio.sleep(_PURGE_PAUSE_S)
        except Error as error:
            log.warning("sessions that are over are removed later", error=str(error))


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
    provide=[passwords, gateway, profiles, ended_feed, ended_watch, sessions, throttle, auth],
    prepare=[seed, looking],
    background=[sweeping, watching, purging],
)
