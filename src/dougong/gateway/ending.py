"""How connections end: said or not, by us or by the peer, and what has to be taken out of where.

OPEN ── close ──▶ CLOSING ── the peer agrees, or patience ends ──▶ GONE
  │                  └────── all is said, and nothing is listened to ──▶ LEAVING ── read, or patience ends ──▶ GONE
  └──── broken, silent, too slow ──▶ GONE
"""

from __future__ import annotations

from collections.abc import Callable

from dougong.gateway._metrics import closed as _closed
from dougong.gateway.connection import NEVER, Connection, Patience, Phase
from dougong.gateway.frames import ProtocolError, encode_close
from dougong.gateway.hearing import Hearing
from dougong.gateway.membership import Membership
from dougong.gateway.roster import Roster
from dougong.gateway.sockets import Sockets
from dougong.gateway.wheel import Wheel
from dougong.gateway.writing import Writing

__all__ = ["Ending"]


class Ending:
    """Of all connections of a process. `begin` before the first of them comes."""

    def __init__(
        self,
        roster: Roster,
        wheel: Wheel[Connection],
        membership: Membership,
        patience: Patience,
        now: Callable[[], int],
    ) -> None:
        self._roster = roster
        self._wheel = wheel
        self._membership = membership
        self._patience = patience
        self._now = now
        self._sockets: Sockets
        self._writing: Writing
        self._hearing: Hearing

    def begin(self, sockets: Sockets, writing: Writing, hearing: Hearing) -> None:
        """These are what connections are taken out of."""
        self._sockets = sockets
        self._writing = writing
        self._hearing = hearing

    def close(self, connection: Connection, code: int, reason: str, why: str) -> None:
        """Say why, then wait a moment for the peer to agree."""
        if connection.phase is not Phase.OPEN:
            return
        _closed.inc(1, why)
        connection.phase = Phase.CLOSING
        self._writing.write_last(connection, encode_close(code, reason))
        if connection.fd >= 0:
            self._membership.leave_all(connection)
            connection.deadline = self._now() + self._patience.closing
            self._wheel.put(connection)

    def fail(self, connection: Connection, error: ProtocolError) -> None:
        """The peer broke the protocol: say so and leave."""
        if connection.phase is Phase.OPEN:
            self.close(connection, error.code, error.reason, f"protocol {error.code.value}")
            if connection.fd >= 0:
                self._leave(connection)
        else:
            self.forget(connection, f"protocol {error.code.value}")

    def closed_by_peer(self, connection: Connection, code: int | None) -> None:
        """He said good-bye. What waits for him was said before, and is still delivered."""
        if connection.phase is not Phase.OPEN:
            self.forget(connection, "closed")
            return
        _closed.inc(1, "closed")
        connection.phase = Phase.CLOSING
        self._writing.write_last(connection, encode_close(code))
        if connection.outbox is None:
            self.forget(connection, "closed")
        elif connection.fd >= 0:
            self._leave(connection)

    def turn_away(self, connection: Connection, answer: bytes) -> None:
        """Its handshake is refused, and this says why."""
        if self._sockets.write(connection, answer) < len(answer):
            self.forget(connection, "refused")
            return
        self._roster.settle(connection, Phase.LEAVING)
        self._leave(connection)

    def emptied(self, connection: Connection) -> None:
        """Nothing waits for it any more."""
        if connection.phase is Phase.LEAVING:
            self._leave(connection)

    def forget(self, connection: Connection, why: str) -> None:
        """It is over: take it out of everything. Again does nothing."""
        if connection.phase is Phase.GONE:
            return
        if connection.phase in (Phase.HANDSHAKE, Phase.OPEN):
            _closed.inc(1, why)
        self._roster.remove(connection)
        connection.phase = Phase.GONE
        self._sockets.drop(connection)
        self._writing.forget(connection)
        self._wheel.remove(connection)
        connection.deadline = NEVER  # the wheel may be about to look at it
        self._hearing.gone(connection)
        self._membership.leave_all(connection)

    def _leave(self, connection: Connection) -> None:
        """All was said: wait a moment until the peer has read it, and listen to nothing."""
        connection.phase = Phase.LEAVING
        patience = self._patience
        connection.deadline = self._now() + (patience.closing if connection.outbox is None else patience.write)
        if connection.outbox is None:
            self._sockets.finish(connection)
        self._membership.leave_all(connection)
        self._wheel.put(connection)
