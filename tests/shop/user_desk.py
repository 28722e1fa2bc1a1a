"""The user centre's service with everything behind it, as one process has it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from dougong.clock import Clock, SystemClock
from dougong.rpc import EndedSessions, JwtIssuer
from dougong.shard import Layout, ShardedStore, embedded_layout, open_sharded_store
from dougong.store import migrations_from
from shop.users import Profile, Users, UsersSettings
from shop.users._passwords import Passwords
from shop.users._service import profile_of
from shop.users.auth_jwt import Auth, EndedFeed, EndedWatch, LoginLimits, LoginThrottle, SessionRules, Sessions
from shop.users.profile_cache import CachedProfiles, MemoryCache
from shop.users.user_core import UserGateway


def issuer(clock: Clock | None = None) -> JwtIssuer:
    key = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return JwtIssuer(key, kid="1", issuer="shop", audience="shop", clock=clock)


class Desk:
    """One process of users, without the process."""

    def __init__(
        self,
        store: ShardedStore,
        gateway: UserGateway,
        passwords: Passwords,
        *,
        clock: Clock | None = None,
        rules: SessionRules | None = None,
        limits: LoginLimits | None = None,
    ) -> None:
        self.store = store
        self.gateway = gateway
        self.passwords = passwords
        self.clock: Clock = clock if clock is not None else SystemClock()
        self.ended = EndedSessions(self.clock)
        self.feed = EndedFeed(self.ended, self.clock)
        self.watch = EndedWatch(store, self.feed, self.clock)
        rules = rules if rules is not None else SessionRules()
        self.sessions = Sessions(store, self.clock, rules, self.feed.told)
        self.throttle = LoginThrottle(limits if limits is not None else LoginLimits())
        self.issuer = issuer(self.clock)
        self.auth = Auth(gateway, self.sessions, self.issuer, passwords, self.throttle, self.clock)

        async def load(user_id: int) -> Profile | None:
            user = await gateway.get(user_id)
            return None if user is None else profile_of(user)

        profiles = CachedProfiles(MemoryCache(self.clock), load, self.clock)
        self.users = Users(gateway, self.auth, self.sessions, self.feed, passwords, UsersSettings(), profiles)


@asynccontextmanager
async def user_desk(
    where: Path | Layout,
    *,
    clock: Clock | None = None,
    rules: SessionRules | None = None,
    limits: LoginLimits | None = None,
) -> AsyncGenerator[Desk]:
    """A desk over databases, which are made if they are not there. Open it again for a process beside."""
    layout = embedded_layout(where, "users") if isinstance(where, Path) else where
    store = await open_sharded_store(layout, watch=True)
    passwords = Passwords()
    gateway = UserGateway(store, clock if clock is not None else SystemClock())
    try:
        await store.migrate("users", migrations_from("shop.users.migrations"))
        await gateway.start()
        await gateway.fill(())
        desk = Desk(store, gateway, passwords, clock=clock, rules=rules, limits=limits)
        await desk.sessions.start()
        yield desk
        await gateway.stop()
    finally:
        passwords.close()
        await store.close()
