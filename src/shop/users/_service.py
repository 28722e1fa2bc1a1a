"""Accounts, tokens and wallets, as others see them."""

from __future__ import annotations

from dougong.contract import Service, rpc
from dougong.errors import Invalid, NotFound, Unauthenticated
from dougong.rpc import JwtIssuer
from dougong.shard import parse_id
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
from shop.users.profile_cache import CachedProfiles
from shop.users.user_core import User, UserGateway
from shop.users.user_core import entities as rows

__all__ = ["Users"]


class Users(Service, package="shop.v1"):
    """Who the customers are and what money they have."""

    def __init__(
        self,
        gateway: UserGateway,
        issuer: JwtIssuer,
        passwords: Passwords,
        settings: UsersSettings,
        profiles: CachedProfiles,
    ) -> None:
        self._gateway = gateway
        self._profiles = profiles
        self._issuer = issuer
        self._passwords = passwords
        self._settings = settings

    @rpc(http="POST /v1/users", public=True)
    async def register(self, request: Register) -> Profile:
        """Open an account with a wallet that holds the welcome credit."""
        password_hash = await self._passwords.hash(request.password)
        credit, currency = self._settings.welcome_credit_minor, self._settings.currency
        user = await self._gateway.register(
            request.email.lower(),
            request.name,
            password_hash,
            rows.Wallet(0, currency, credit, deposited=credit),
            role="customer",
        )
        await self._profiles.forget(user.id)  # somebody may have asked for this id before
        return profile_of(user)

    @rpc(http="POST /v1/login", public=True)
    async def login(self, request: Login) -> Token:
        """A bearer token for the right e-mail and password."""
        user = await self._gateway.find(request.email.lower())
        stored = user.password_hash if user is not None else None
        if not await self._passwords.verify(stored, request.password) or user is None:
            raise Unauthenticated("e-mail or password is wrong", code="bad_credentials")
        token = self._issuer.issue(str(user.id), roles=(user.role,), ttl_s=self._settings.token_ttl_s)
        return Token(token=token, expires_in_s=self._settings.token_ttl_s, user_id=str(user.id))

    @rpc(http="GET /v1/me")
    async def get_profile(self, request: GetProfile) -> Profile:
        """The caller's own profile."""
        profile = await self._profiles.get(user_number(request.user_id))
        if profile is None:
            raise NotFound(f"there is no user {request.user_id}", code="unknown_user")
        return profile

    @rpc(http="PATCH /v1/me")
    async def update_profile(self, request: UpdateProfile) -> Profile:
        """Change the display name."""
        number = user_number(request.user_id)
        try:
            await self._gateway.rename(number, request.name)
        finally:  # a write that failed or was cancelled may have happened
            await self._profiles.forget(number)
        return await self.get_profile(GetProfile(user_id=request.user_id))

    @rpc(http="GET /v1/wallet")
    async def get_wallet(self, request: GetWallet) -> Wallet:
        """The caller's own wallet."""
        wallet = await self._gateway.wallet(user_number(request.user_id))
        if wallet is None:
            raise NotFound(f"user {request.user_id} has no wallet", code="unknown_user")
        return Wallet(
            user_id=str(wallet.user_id),
            currency=wallet.currency,
            available=wallet.available,
            frozen=wallet.frozen,
            spent=wallet.spent,
            deposited=wallet.deposited,
        )

    @rpc(http="GET /v1/books/wallets", roles=("operator",), timeout_s=30)
    async def add_up_wallets(self, request: AddUpWallets) -> WalletBooks:
        """The books added up over all wallets."""
        count, available, frozen, spent, deposited = await self._gateway.books()
        return WalletBooks(wallets=count, available=available, frozen=frozen, spent=spent, deposited=deposited)


def profile_of(user: User) -> Profile:
    """What others see of an account."""
    return Profile(user_id=str(user.id), email=user.email, name=user.name, role=user.role, created_us=user.created_us)


def user_number(user_id: str) -> int:
    """The stored form of a user id. Raises `NotFound` for what cannot be one."""
    try:
        return parse_id(user_id)
    except Invalid:
        raise NotFound(f"there is no user {user_id!r}", code="unknown_user") from None
