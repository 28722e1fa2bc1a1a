"""Logging in, staying logged in, and changing the password."""

from __future__ import annotations

import msgspec

from dougong.clock import Clock
from dougong.errors import Error, Forbidden, NotFound, Overloaded
from dougong.rpc import JwtIssuer
from dougong.shard import hash_bucket
from dougong.telemetry import counter, get_logger
from shop.users._passwords import Passwords
from shop.users.auth_jwt._session import Rotated, Session
from shop.users.auth_jwt._sessions import Sessions, wrong_credentials
from shop.users.auth_jwt._throttle import LoginThrottle
from shop.users.auth_jwt._tokens import read_token
from shop.users.user_core import User, UserGateway

__all__ = ["Auth", "Grant"]

log = get_logger(__name__)
_logins = counter("shop_logins_total", "Attempts to log in, by what came of them.", ("outcome",))
_refreshes = counter("shop_refreshes_total", "Refresh tokens shown, by what came of them.", ("outcome",))


class Grant(msgspec.Struct, frozen=True):
    """What a client gets that proved who it is."""

    user_id: int
    session_id: int
    access_token: str
    access_s: int
    refresh_token: str
    refresh_s: int

    def __repr__(self) -> str:
        return f"Grant({self.user_id}, {self.session_id})"


class Auth:
    """Passwords and refresh tokens in, access tokens out."""

    def __init__(
        self,
        gateway: UserGateway,
        sessions: Sessions,
        issuer: JwtIssuer,
        passwords: Passwords,
        throttle: LoginThrottle,
        clock: Clock,
    ) -> None:
        self._gateway = gateway
        self._sessions = sessions
        self._issuer = issuer
        self._passwords = passwords
        self._throttle = throttle
        self._clock = clock

    async def login(self, email: str, password: str, address: str) -> Grant:
        """`Unauthenticated` (`bad_credentials`), or `Overloaded`: `login_throttled`, `login_overloaded`."""
        email = email.lower()
        user = await self._verified(email, password, address)
        if user is None:
            raise wrong_credentials()
        return self._grant(await self._sessions.open(user), user)

    async def refresh(self, written: str) -> Grant:
        """`Unauthenticated`: `refresh_token_invalid`, `_reused`, `session_ended`, `session_expired`."""
        try:
            rotated, user = await self._sessions.refresh(read_token(written))
        except Error as error:
            _refreshes.inc(1, error.code)
            if error.code == "refresh_token_reused":
                log.warning("a refresh token was used twice; its session has been ended")
            raise
        _refreshes.inc(1, "repeated" if rotated.repeated else "ok")
        return self._grant(rotated, user)

    async def change_password(self, user_id: int, old: str, new: str, address: str, *, keep: int | None) -> int:
        """How many other sessions that ended. `Forbidden` (`wrong_password`), and `Overloaded` as for logging in."""
        user = await self._gateway.get(user_id)
        if user is None:
            raise NotFound(f"there is no user {user_id}", code="unknown_user")
        verified = await self._verified(user.email, old, address)
        if verified is None:
            raise Forbidden("the old password is wrong", code="wrong_password")
        return await self._sessions.change_password(verified, await self._passwords.hash(new), keep=keep)

    async def _verified(self, email: str, password: str, address: str) -> User | None:
        """The user whose password this is. Charged before anything is looked at; whether there is such an account makes
        no difference, to the answer or to the work."""
        try:
            charge = self._throttle.charge(email, address, self._clock.monotonic())
        except Overloaded:
            _logins.inc(1, "throttled")
            raise
        try:
            user = await self._gateway.find(email)
            if user is None:
                await self._gateway.get(hash_bucket(email))  # whose is read besides the index, in the same database
            stored = None if user is None else user.password_hash
            right = await self._passwords.verify(stored, password, known=charge.known)
        except Error as error:
            self._throttle.refund(charge)
            _logins.inc(1, error.code)
            raise
        if user is None or not right:
            _logins.inc(1, "wrong")
            return None
        self._throttle.succeeded(charge, self._clock.monotonic())
        _logins.inc(1, "ok")
        return user

    def _grant(self, rotated: Rotated, user: User) -> Grant:
        session: Session = rotated.session
        access_token = self._issuer.issue(
            str(user.id), roles=(user.role,), session=str(session.id), ttl_s=rotated.access_s
        )
        left_us = session.expires_us - self._clock.now_us()
        return Grant(
            user_id=user.id,
            session_id=session.id,
            access_token=access_token,
            access_s=rotated.access_s,
            refresh_token=rotated.token.written(),
            refresh_s=max(0, left_us // 1_000_000),
        )
