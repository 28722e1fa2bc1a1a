"""The doorway: from the first byte to a session, or to a refusal that says why.

What stands here costs most and is known least, so it is bounded in number, in bytes and in time. What was decided
before an `await` is looked at again after it: the peer may have gone, and his user may have come by other doors.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Protocol

import msgspec

from dougong.errors import Error, Internal, Overloaded, Unauthenticated
from dougong.gateway._metrics import refused as _refused
from dougong.gateway.connection import NEVER, TICK_S, Connection, Phase
from dougong.gateway.handshake import Refused, Upgrade, accept, end_of_head, read_head
from dougong.gateway.membership import Membership
from dougong.gateway.plain import PlainConnection
from dougong.gateway.roster import Roster
from dougong.gateway.settings import GatewaySettings
from dougong.telemetry import get_logger

if TYPE_CHECKING:
    from dougong.rpc import Caller

__all__ = ["Authenticate", "Doorway", "EndedNews", "Grant", "Host"]

_log = get_logger("dougong.gateway")


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody who connects gets."""

    user: str
    expires_in_s: float | None = None
    """Then the session ends; None is never."""
    topics: tuple[str, ...] = ()
    """Subscribed from the start."""
    protocol: str | None = None
    """Which of the offered subprotocols is spoken."""
    caller: Caller | None = None
    """For calls to services, and to end the connection with its session."""


Authenticate = Callable[[Upgrade], Awaitable[Grant]]
"""Who connects. Raises `Unauthenticated`, `Forbidden`, `Overloaded`."""


class EndedNews(Protocol):
    """Which sessions ended before their time (`dougong.rpc.EndedSessions`)."""

    @property
    def changes(self) -> int:
        """Counts what was ended."""

    def __contains__(self, session: str) -> bool: ...


class Host(Protocol):
    """Who has the doorway."""

    draining: bool
    crowded: bool
    """Memory is short."""

    def hint_s(self) -> float:
        """When to come again."""

    def spawn(self, work: Coroutine[None, None, None]) -> bool:
        """Run it beside others."""

    def opened(self, connection: Connection, answer: bytes, expires: int) -> None:
        """It is in; `answer` is to be written first."""

    def turned_away(self, connection: Connection, answer: bytes) -> None:
        """It is not; `answer` is to be written last."""

    def tick_now(self) -> int:
        """The tick it is."""


class Doorway:
    """Handshakes of one process."""

    def __init__(
        self,
        host: Host,
        authenticate: Authenticate,
        settings: GatewaySettings,
        roster: Roster,
        membership: Membership,
        ended: EndedNews | None,
    ) -> None:
        self._host = host
        self._authenticate = authenticate
        self._settings = settings
        self._roster = roster
        self._membership = membership
        self._ended = ended
        self._client = _client_of(settings.trusted_proxies)

    def came(self, connection: Connection, data: bytes) -> None:
        """Bytes of somebody who is not in yet."""
        head = connection.take_head(data)
        try:
            if connection.begun >= 0:
                raise Refused(400, "send nothing before the handshake is answered")
            end = end_of_head(head, len(head) - len(data))
            if end < 0:
                connection.keep_head(head)
                return
            if end < len(head):
                raise Refused(400, "send nothing before the handshake is answered")
            upgrade = read_head(head)
            self._check(connection, upgrade)
        except Refused as refused:
            self.refuse(connection, refused)
            return
        connection.begun = self._host.tick_now()
        self._host.spawn(self._let_in(connection, upgrade))

    def refuse(self, connection: Connection, refused: Refused) -> None:
        """Say why, if anybody is there; again does nothing."""
        if connection.phase is Phase.HANDSHAKE:
            _refused.inc(1, str(refused.status))
            self._host.turned_away(connection, refused.response)

    def _check(self, connection: Connection, upgrade: Upgrade) -> None:
        settings, again = self._settings, {"Retry-After": str(max(1, math.ceil(self._host.hint_s())))}
        if upgrade.path != settings.path:
            raise Refused(404, f"nothing is here; connect to {settings.path}")
        if settings.origins and upgrade.origin is not None and upgrade.origin not in settings.origins:
            raise Refused(403, "pages of this origin may not connect")
        if not self._roster.readdress(connection, self._client(connection.ip, upgrade)):
            raise Refused(429, "too many connections of one address, or too many that begin at once", again)
        if self._host.draining:
            raise Refused(503, "gateway_restarting: come again", again)
        if self._host.crowded:
            raise Refused(503, "gateway_full: memory is short; come again later", again)

    async def _let_in(self, connection: Connection, upgrade: Upgrade) -> None:
        settings = self._settings
        try:
            async with asyncio.timeout(settings.patience.handshake * TICK_S):
                grant = await self._authenticate(upgrade)
                if connection.phase is not Phase.HANDSHAKE:
                    return  # it left, or was refused meanwhile
                expires = self._claim(connection, grant)
                for topic in grant.topics:
                    await self._membership.join(connection, topic, None, topics_max=len(grant.topics))
            if self._has_ended(grant):
                raise _over()
        except TimeoutError:
            self.refuse(connection, Refused(503, "cannot say in time who you are; try again later"))
        except Internal as error:
            _log.error("authenticate_failed", error=str(error))
            self.refuse(connection, Refused(503, "cannot say who you are; try again later"))
        except Error as error:
            self.refuse(connection, _refusal(error))
        except Exception:  # noqa: BLE001 (a bug in somebody's authenticate ends this handshake and no other)
            _log.exception("authenticate_failed")
            self.refuse(connection, Refused(503, "cannot say who you are; try again later"))
        else:
            if connection.phase is Phase.HANDSHAKE:
                protocol = grant.protocol if grant.protocol in upgrade.protocols else None
                self._host.opened(connection, accept(upgrade, protocol=protocol), expires)
                if upgrade.plain:  # the answer was HTTP; from here on all is frames
                    connection.__class__ = PlainConnection

    def _claim(self, connection: Connection, grant: Grant) -> int:
        """Check and count in one go, with nothing awaited between: a hundred handshakes of one user run at once."""
        most = self._settings.connections_per_user_max
        if self._roster.count_of_user(grant.user) >= most:
            raise Overloaded(f"over {most} connections of one user", code="too_many_connections")
        expires = NEVER
        if grant.expires_in_s is not None and grant.expires_in_s != math.inf:
            if not grant.expires_in_s > 0:  # said this way round, NaN is over too
                raise Unauthenticated("the session is over: log in again", code="token_expired")
            expires = self._host.tick_now() + max(1, int(grant.expires_in_s / TICK_S))
        if self._has_ended(grant):
            raise _over()
        self._roster.name(connection, grant.user)
        connection.caller = grant.caller
        return expires

    def _has_ended(self, grant: Grant) -> bool:
        return self._ended is not None and grant.caller is not None and grant.caller.session in self._ended


def _over() -> Unauthenticated:
    return Unauthenticated("the session has ended: log in again", code="token_ended")


def _refusal(error: Error) -> Refused:
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.http_status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="dougong"'
    return Refused(error.http_status, f"{error.code}: {error.message}", headers)


def _client_of(trusted: tuple[str, ...]) -> Callable[[str, Upgrade], str]:
    if not trusted:
        return lambda peer, _: peer
    from dougong.http import Proxies

    proxies = Proxies(trusted)

    def client(peer: str, upgrade: Upgrade) -> str:
        said = upgrade.headers.get("x-forwarded-for", "").encode("latin-1", "replace")
        return proxies.client(peer, [(b"x-forwarded-for", said)])

    return client
