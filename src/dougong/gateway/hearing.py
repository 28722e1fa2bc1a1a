"""What peers send, once they are in: frames become messages, and whoever sends too much is shown out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dougong.gateway._metrics import received as _received
from dougong.gateway.connection import NEVER, Connection, Phase
from dougong.gateway.frames import CloseCode, Opcode, ProtocolError, Received, encode_frame, read_close
from dougong.gateway.settings import GatewaySettings
from dougong.gateway.writing import Writing

__all__ = ["PONGS_PER_READ_MAX", "Close", "Hearing"]

PONGS_PER_READ_MAX = 16
"""Of more pings that came in one read, the last one is answered, as RFC 6455 (5.5.3) allows."""
_FLOOD_TICKS = 10
_OPEN = Phase.OPEN
Close = Callable[[Connection, int, str, str], None]
"""(connection, code, reason, why): say so and wait for the peer to agree; `why` is for metrics."""


class Hearing:
    """The reading side of all connections of a process."""

    def __init__(
        self,
        writing: Writing,
        settings: GatewaySettings,
        *,
        greet: Callable[[Connection, bytes], None],
        said: Callable[[Connection, Sequence[bytes]], None],
        binary: Callable[[Connection, bytes], None],
        close: Close,
        fail: Callable[[Connection, ProtocolError], None],
        closed: Callable[[Connection, int | None], None],
        look_again: Callable[[Connection], None],
    ) -> None:
        self._writing = writing
        self._limits = settings.frames
        self._count_max = settings.messages_per_s_max * _FLOOD_TICKS
        self._greet = greet
        self._said = said
        self._binary = binary
        self._close = close
        self._fail = fail
        self._closed = closed
        self._look_again = look_again
        self._counted: dict[int, int] = {}
        self._counted_since = 0
        self._now = 0
        self._received = 0
        """Messages since the last tick."""

    def tick(self, now: int) -> None:
        """It is that tick now."""
        self._now = now
        self.tell_received()
        if now - self._counted_since >= _FLOOD_TICKS:
            self._counted.clear()
            self._counted_since = now

    def tell_received(self) -> None:
        """Once a tick, since a counter has a lock, and what is counted here is every message."""
        received, self._received = self._received, 0
        _received.inc(received)

    def gone(self, connection: Connection) -> None:
        """It is over."""
        self._counted.pop(connection.serial, None)

    def came(self, connection: Connection, data: bytes) -> None:
        """Bytes of a connection."""
        connection.heard = self._now
        phase = connection.phase
        if phase is _OPEN:
            texts = connection.only_texts(data, self._limits)
            if texts is not None:
                connection.pinged = NEVER
                serial, count = connection.serial, len(texts)
                self._received += count
                counted = self._counted
                counted[serial] = count = counted.get(serial, 0) + count
                if count > self._count_max:
                    self._flood(connection, "messages")
                else:
                    self._said(connection, texts)
                return
        elif phase is Phase.HANDSHAKE:
            self._greet(connection, data)
            return
        elif phase is Phase.LEAVING:
            return
        try:
            try:
                received = connection.feed(data, self._limits)
            except ProtocolError as error:
                self._hear(connection, error.received)
                raise
            self._hear(connection, received)
        except ProtocolError as error:
            self._fail(connection, error)
            return
        connection.pinged = NEVER  # whatever came, the peer lives
        if not connection.reading:
            connection.begun = NEVER
        elif connection.begun < 0:
            connection.begun = self._now
            self._look_again(connection)
        elif any(one.opcode < Opcode.CLOSE for one in received):
            connection.begun = self._now  # that one ended: what is half here is another

    def _hear(self, connection: Connection, received: Sequence[Received]) -> None:
        """What came in one read."""
        pings, last = 0, b""
        for one in received:
            opcode = one.opcode
            if connection.phase is Phase.GONE or (connection.phase is not Phase.OPEN and opcode != Opcode.CLOSE):
                continue
            if opcode == Opcode.CLOSE:
                self._closed(connection, read_close(one.data)[0])
            elif opcode == Opcode.PONG:
                if connection.pinged < 0:
                    self._too_many(connection, "pongs that nobody asked for")
                connection.pinged = NEVER
            elif self._too_many(connection, "pings" if opcode == Opcode.PING else "messages"):
                continue
            elif opcode == Opcode.PING:
                pings, last = pings + 1, one.data
                if pings <= PONGS_PER_READ_MAX:
                    self._writing.write(connection, encode_frame(Opcode.PONG, one.data))
            else:
                self._received += 1
                if opcode == Opcode.TEXT:
                    self._said(connection, (one.data,))
                else:
                    self._binary(connection, one.data)
        if pings > PONGS_PER_READ_MAX and connection.phase is Phase.OPEN:
            self._writing.write(connection, encode_frame(Opcode.PONG, last))

    def _too_many(self, connection: Connection, what: str) -> bool:
        """Count one; true when that was too many, and the connection is being closed."""
        count = self._counted[connection.serial] = self._counted.get(connection.serial, 0) + 1
        if count <= self._count_max:
            return False
        self._flood(connection, what)
        return True

    def _flood(self, connection: Connection, what: str) -> None:
        self._close(connection, CloseCode.POLICY, f"too many {what}", "flood")
