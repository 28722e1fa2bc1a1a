"""Accounts, tokens and wallets, as others see them."""

from __future__ import annotations

from dougong.clock import Clock
from dougong.contract import Service, rpc
from dougong.errors import Conflict, NotFound, Unauthenticated
from dougong.rpc import JwtIssuer
from dougong.store import Store, Tx
from shop.users._contract import (
    AddUpWallets,
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
from shop.users._passwords import Passwords
from shop.users._settings import UsersSettings

__all__ = ["Users"]


class Users(Service, package="shop.v1"):
    """Who the customers are and what money they have."""

    def __init__(
        self, store: Store, clock: Clock, issuer: JwtIssuer, passwords: Passwords, settings: UsersSettings
    ) -> None:
        self._store = store
        self._clock = clock
        self._issuer = issuer
        self._passwords = passwords
        self._settings = settings

    @rpc(http="POST /v1/users", public=True)
    async def register(self, request: Register) -> Profile:
        """Open an account with a wallet that holds the welcome credit."""
        password_hash = await self._passwords.hash(request.password)
        email, now_us, settings = request.email.lower(), self._clock.now_us(), self._settings

        async def unit(tx: Tx) -> int:
            if await tx.fetch_one("SELECT 1 FROM users WHERE email = ?", (email,)):
                raise Conflict(
                    f"{email} has an account already; log in, or register another address", code="email_taken"
                )
            row = await tx.fetch_one("SELECT coalesce(max(id), 0) + 1 FROM users")
            assert row is not None  # an aggregate always has one row
            user_id = int(row[0] or 0)
            await tx.execute(
                "INSERT INTO users (id, email, name, password_hash, role, created_us) "
                "VALUES (?, ?, ?, ?, 'customer', ?)",
                (user_id, email, request.name, password_hash, now_us),
            )
            credit = settings.welcome_credit_minor
            await tx.execute(
                "INSERT INTO wallets (user_id, currency, available, deposited) VALUES (?, ?, ?, ?)",
                (user_id, settings.currency, credit, credit),
            )
            return user_id

        user_id = await self._store.write(unit)
        return Profile(user_id=str(user_id), email=email, name=request.name, role="customer", created_us=now_us)

    @rpc(http="POST /v1/login", public=True)
    async def login(self, request: Login) -> Token:
        """A bearer token for the right e-mail and password."""
        row = await self._store.fetch_one(
            "SELECT id, password_hash, role FROM users WHERE email = ?", (request.email.lower(),)
        )
        if not await self._passwords.verify(str(row[1]) if row else None, request.password) or row is None:
            raise Unauthenticated("e-mail or password is wrong", code="bad_credentials")
        user_id, _, role = row
        token = self._issuer.issue(str(user_id), roles=(str(role),), ttl_s=self._settings.token_ttl_s)
        return Token(token=token, expires_in_s=self._settings.token_ttl_s, user_id=str(user_id))

    @rpc(http="GET /v1/me")
    async def get_profile(self, request: GetProfile) -> Profile:
        """The caller's own profile."""
        row = await self._store.fetch_one(
            "SELECT id, email, name, role, created_us FROM users WHERE id = ?", (user_number(request.user_id),)
        )
        if row is None:
            raise NotFound(f"there is no user {request.user_id}", code="unknown_user")
        user_id, email, name, role, created_us = row
        return Profile(user_id=str(user_id), email=email, name=name, role=role, created_us=created_us)  # type: ignore[arg-type]

    @rpc(http="PATCH /v1/me")
    async def update_profile(self, request: UpdateProfile) -> Profile:
        """Change the display name."""

        async def unit(tx: Tx) -> None:
            await tx.execute("UPDATE users SET name = ? WHERE id = ?", (request.name, user_number(request.user_id)))

        await self._store.write(unit)
        return await self.get_profile(GetProfile(user_id=request.user_id))

    @rpc(http="GET /v1/wallet")
    async def get_wallet(self, request: GetWallet) -> Wallet:
        """The caller's own wallet."""
        row = await self._store.fetch_one(
            "SELECT user_id, currency, available, frozen, spent, deposited FROM wallets WHERE user_id = ?",
            (user_number(request.user_id),),
        )
        if row is None:
            raise NotFound(f"user {request.user_id} has no wallet", code="unknown_user")
        user_id, currency, available, frozen, spent, deposited = row
        return Wallet(
            user_id=str(user_id),
            currency=currency,  # type: ignore[arg-type]
            available=available,  # type: ignore[arg-type]
            frozen=frozen,  # type: ignore[arg-type]
            spent=spent,  # type: ignore[arg-type]
            deposited=deposited,  # type: ignore[arg-type]
        )

    @rpc(http="GET /v1/books/wallets", roles=("operator",), timeout_s=30)
    async def add_up_wallets(self, request: AddUpWallets) -> WalletBooks:
        """The books added up over all wallets."""
        row = await self._store.fetch_one(
            "SELECT count(*), coalesce(sum(available), 0), coalesce(sum(frozen), 0), coalesce(sum(spent), 0), "
            "coalesce(sum(deposited), 0) FROM wallets"
        )
        assert row is not None  # an aggregate always has one row
        wallets, available, frozen, spent, deposited = row
        return WalletBooks(wallets=wallets, available=available, frozen=frozen, spent=spent, deposited=deposited)  # type: ignore[arg-type]


def user_number(user_id: str) -> int:
    """The stored form of a user id. Raises `NotFound` for what cannot be one."""
    if not (user_id.isascii() and user_id.isdigit() and len(user_id) <= 18):
        raise NotFound(f"there is no user {user_id!r}", code="unknown_user")
    return int(user_id)
