"""One connection, at a few hundred bytes: what is known about it, and what its time says is to be done.

A million of these lie in one machine, so there is no task, no timer and no queue here, and what most connections do not
have at a moment (a half-read message, something that waits to be written) is None.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar

import msgspec

from dougong.gateway.frames import CloseCode, FrameReader
from dougong.gateway.outbox import Outbox

if TYPE_CHECKING:
    from dougong.rpc import Caller

__all__ = ["NEVER", "TICK_S", "Connection", "Patience", "Phase", "Step", "next_deadline", "next_step"]

NEVER = -1
TICK_S = 1.0
"""What a tick of the wheel is in seconds."""


class Phase(IntEnum):
    HANDSHAKE = 0
    OPEN = 1
    CLOSING = 2
    """A close frame was sent; the peer's, or the end of patience, ends it."""
    LEAVING = 3
    """All was said and our side is shut. What still comes is read and thrown away: closing on unread bytes resets the
    connection, and the peer might never see why."""
    GONE = 4


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long we wait for what. In ticks of the wheel, one second each by default."""

    handshake: int = 10
    ping_every: int = 25
    """A peer from which nothing came for so long is asked whether it lives (up to a fifth earlier, by chance)."""
    pong: int = 10
    """And is gone when nothing came by then."""
    message: int = 30
    """From a message's first byte to its last."""
    write: int = 20
    """A peer that takes nothing of what waits for it for so long is gone."""
    closing: int = 5


class Connection(FrameReader):
    """State only; whoever owns the socket acts. Ticks are integers shared by many connections: they cost a pointer."""

    __slots__ = (
        "begun",
        "caller",
        "deadline",
        "expires",
        "fd",
        "heard",
        "ip",
        "looked_at",
        "opened",
        "outbox",
        "phase",
        "pinged",
        "serial",
        "topics",
        "user",
    )
    plain: ClassVar[bool] = False
    """Whether its frames are those of `plain`."""

    def __init__(self, fd: int, serial: int, ip: str, now: int, patience: Patience) -> None:
        FrameReader.__init__(self)
        self.fd = fd
        self.serial = serial
        """Of the worker, never used again; a descriptor is."""
        self.ip = ip
        self.phase = Phase.HANDSHAKE
        self.user: str | None = None
        self.caller: Caller | None = None
        self.topics: str | set[str] | None = None
        self.outbox: Outbox | None = None
        self.opened = now
        self.heard = now
        """The tick at which something came last."""
        self.begun = NEVER
        """The tick at which the message began that is half here."""
        self.pinged = NEVER
        """The tick of a ping that was not answered yet."""
        self.expires = NEVER
        """The tick at which its session ends."""
        self.deadline = now + patience.handshake
        self.looked_at = NEVER

    def take_head(self, data: bytes) -> bytes:
        """What came of the handshake so far; nothing of it is kept."""
        head, self._rest = self._rest + data, b""
        return head

    def keep_head(self, head: bytes) -> None:
        """The handshake is not complete yet."""
        self._rest = head


class Step(msgspec.Struct, frozen=True):
    """What a connection's time demands."""

    action: str
    """`wait`, `ping`, `refuse` (the handshake), `close` (with code and reason), or `abort`."""
    code: CloseCode | int = CloseCode.NORMAL
    reason: str = ""


SESSION_OVER = 4001
"""The token's time is over: get a new one, and come again at once."""
_WAIT, _PING = Step("wait"), Step("ping")
_REFUSE = Step("refuse", reason="the handshake took too long")
_SILENT = Step("abort", reason="no answer to a ping")
_UNREAD = Step("abort", reason="reads too slowly")
_LINGERS = Step("abort", reason="did not answer a close")
_OVER = Step("close", SESSION_OVER, "the session is over; log in again")
_ENDLESS = Step("close", CloseCode.POLICY, "a message took too long to arrive")


def next_step(connection: Connection, now: int, patience: Patience) -> Step:
    """What to do with a connection whose deadline came up."""
    if connection.phase is Phase.HANDSHAKE:
        return _REFUSE if now - connection.opened >= patience.handshake else _WAIT
    if connection.phase is not Phase.OPEN:
        return _LINGERS
    if 0 <= connection.expires <= now:
        return _OVER
    outbox = connection.outbox
    if outbox is not None and now - outbox.since >= patience.write:
        return _UNREAD
    if connection.begun >= 0 and now - connection.begun >= patience.message:
        return _ENDLESS
    if connection.pinged >= 0:
        return _SILENT if now - connection.pinged >= patience.pong else _WAIT
    return _PING if now - connection.heard >= patience.ping_every - patience.ping_every // 5 else _WAIT


def next_deadline(connection: Connection, patience: Patience, chance: float) -> int:
    """When to look at it again; `chance` in [0, 1) spreads pings, so that what came together is not asked together."""
    if connection.phase is not Phase.OPEN:
        return connection.deadline
    if connection.pinged >= 0:
        deadline = connection.pinged + patience.pong
    else:
        deadline = connection.heard + patience.ping_every - int(patience.ping_every / 5 * chance)
    if connection.outbox is not None:
        deadline = min(deadline, connection.outbox.since + patience.write)
    if connection.begun >= 0:
        deadline = min(deadline, connection.begun + patience.message)
    if connection.expires >= 0:
        deadline = min(deadline, connection.expires)
    return deadline
