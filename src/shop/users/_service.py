"""Accounts, tokens and wallets, as others see them."""

from __future__ import annotations

from dougong.contract import Service, rpc
from dougong.errors import Invalid, NotFound
from dougong.rpc import current_origin
from dougong.shard import parse_id
from shop.users._contract import (
    AddUpWallets,
    ChangePassword,
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
from shop.users._passwords import Passwords
from shop.users._settings import UsersSettings
from shop.users.auth_jwt import Auth, EndedFeed, Grant, Sessions
from shop.users.profile_cache import CachedProfiles
from shop.users.user_core import User, UserGateway
from shop.users.user_core import entities as rows

__all__ = ["Users"]


class Users(Service, package="shop.v1"):
    """Who the customers are and what money they have."""

    def __init__(
        self,
        gateway: UserGateway,
        auth: Auth,
        sessions: Sessions,
        feed: EndedFeed,
        passwords: Passwords,
        settings: UsersSettings,
        profiles: CachedProfiles,
    ) -> None:
        self._gateway = gateway
        self._profiles = profiles
        self._auth = auth
        self._sessions = sessions
        self._feed = feed
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
        """A session for the right e-mail and password: a bearer token, and a refresh token to get the next with."""
        return _token(await self._auth.login(request.email, request.password, current_origin().address))

    @rpc(
        http="POST /v1/token", public=True, idempotent=True
    )  # for as long as the grace is, which is longer than a call
    async def refresh(self, request: Refresh) -> Token:
        """The next bearer token and the next refresh token. An old one, used again, ends the session."""
        return _token(await self._auth.refresh(request.refresh_token))

    @rpc(http="POST /v1/logout", idempotent=True)
    async def log_out(self, request: LogOut) -> LoggedOut:
        """End the session that the token comes from, or another of one's own."""
        number = _session_number(request.session_id or current_origin().session)
        if number is None:
            raise Invalid("the token names no session: name one, or log out everywhere", code="no_session")
        return LoggedOut(sessions=await self._sessions.end(user_number(request.user_id), "logout", only=number))

    @rpc(http="POST /v1/logout-all", idempotent=True)
    async def log_out_everywhere(self, request: LogOutEverywhere) -> LoggedOut:
        """End all of one's own sessions."""
        return LoggedOut(sessions=await self._sessions.end(user_number(request.user_id), "logout_all"))

    @rpc(http="GET /v1/sessions")
    async def list_sessions(self, request: ListSessions) -> SessionList:
        """Where one is logged in."""
        own = _session_number(current_origin().session)
        live = await self._sessions.living(user_number(request.user_id))
        return SessionList(
            items=[
                SessionInfo(
                    session_id=str(one.id), created_us=one.created_us, used_us=one.used_us, current=one.id == own
                )
                for one in live
            ]
        )

    @rpc(http="POST /v1/password")
    async def change_password(self, request: ChangePassword) -> LoggedOut:
        """Another password; all sessions but the one that asks end."""
        origin = current_origin()
        ended = await self._auth.change_password(
            user_number(request.user_id),
            request.old_password,
            request.new_password,
            origin.address,
            keep=_session_number(origin.session),
        )
        return LoggedOut(sessions=ended)

    @rpc(http="POST /v1/users/{user_id}/end-sessions", roles=("operator",), idempotent=True)
    async def end_sessions(self, request: EndSessions) -> LoggedOut:
        """End a user's sessions, or one of them."""
        only = _session_number(request.session_id)
        return LoggedOut(sessions=await self._sessions.end(user_number(request.user_id), "operator", only=only))

    @rpc(internal=True, idempotent=True)
    async def ended_sessions(self, request: EndedSince) -> EndedPage:
        """What this process knows of ended sessions and the caller does not, in pieces."""
        position = next((mark.position for mark in request.marks if mark.feed == self._feed.name), 0)
        page = self._feed.after(position)
        items = [EndedSession(session_id=session, until_us=until_us) for session, until_us in page.items]
        return EndedPage(mark=FeedMark(feed=page.feed, position=page.position), items=items, more=page.more)

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


def _token(grant: Grant) -> Token:
    return Token(
        token=grant.access_token,
        expires_in_s=grant.access_s,
        user_id=str(grant.user_id),
        refresh_token=grant.refresh_token,
        refresh_expires_in_s=grant.refresh_s,
        session_id=str(grant.session_id),
    )


def _session_number(session_id: str) -> int | None:
    """The stored form of a session's id; None for none. Raises `NotFound` for what cannot be one."""
    if not session_id:
        return None
    try:
        return parse_id(session_id)
    except Invalid:
        raise NotFound(f"there is no session {session_id!r}", code="unknown_session") from None


def profile_of(user: User) -> Profile:
    """What others see of an account."""
    return Profile(user_id=str(user.id), email=user.email, name=user.name, role=user.role, created_us=user.created_us)


def user_number(user_id: str) -> int:
    """The stored form of a user id. Raises `NotFound` for what cannot be one."""
    try:
        return parse_id(user_id)
    except Invalid:
        raise NotFound(f"there is no user {user_id!r}", code="unknown_user") from None
