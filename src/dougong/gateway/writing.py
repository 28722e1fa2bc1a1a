"""Bytes on their way out: to the kernel at once, or into an outbox, within what one and all peers may have waiting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dougong.gateway import messages
from dougong.gateway._metrics import dropped as _dropped
from dougong.gateway.connection import Connection, Phase
from dougong.gateway.crowd import Telling
from dougong.gateway.frames import encode_text
from dougong.gateway.outbox import Outbox, Slow, Verdict
from dougong.gateway.plain import to_plain
from dougong.gateway.settings import GatewaySettings
from dougong.gateway.sockets import Sockets

__all__ = ["Writing"]

_RELIEF = 0.9
_OPEN = Phase.OPEN


class Writing:
    """The writing side of all connections of a process.

    `broke(connection, why)` is told of those that cannot be written to, `slowed(connection)` of those that begin to
    wait, `emptied(connection)` of those for which nothing waits any more; all may forget the connection.
    """

    def __init__(
        self,
        sockets: Sockets,
        settings: GatewaySettings,
        broke: Callable[[Connection, str], None],
        slowed: Callable[[Connection], None],
        emptied: Callable[[Connection], None],
        now: Callable[[], int],
    ) -> None:
        self._sockets = sockets
        self._settings = settings
        self._broke = broke
        self._slowed = slowed
        self._emptied = emptied
        self._now = now
        self._slow: dict[Connection, None] = {}
        self._framed = b"", b""
        """What was made plain last, and what it is then."""
        self.waiting_bytes = 0

    def write(self, connection: Connection, frame: bytes, topic: str | None = None, slow: Slow = Slow.CLOSE) -> None:
        """Send a frame; `topic` and `slow` say what may give way to what when the peer reads too slowly."""
        if connection.fd < 0:
            return
        if connection.plain:
            frame = self._plain(frame)
        if connection.outbox is not None:
            self._wait(connection, frame, 0, topic, slow)
        elif (wrote := self._sockets.write(connection, frame)) < 0:
            self._broke(connection, "broken")
        elif wrote < len(frame):
            self._wait(connection, frame, wrote, topic, slow)

    def write_all(self, connections: Sequence[Connection], told: Sequence[Telling]) -> int:
        """The same to all that are open, in one write each as long as they keep up; how many messages that were."""
        frame, plain = b"".join([one.frame for one in told]), b""
        write, reached = self._sockets.write, 0
        for connection in connections:
            if connection.phase is _OPEN:
                reached += 1
                if connection.outbox is not None:
                    for one in told:
                        self.write(connection, one.frame, one.topic, one.slow)
                    continue
                out = frame
                if connection.plain:
                    out = plain = plain or b"".join([to_plain(one.frame) for one in told])
                if (wrote := write(connection, out)) != len(out):
                    self._fell_short(connection, told, wrote)
        return reached * len(told)

    def write_last(self, connection: Connection, frame: bytes) -> None:
        """A close frame: behind what waits, whatever the bounds say."""
        outbox = connection.outbox
        if connection.plain:
            frame = to_plain(frame)
        if outbox is None:
            if self._sockets.write(connection, frame) < len(frame):
                self._broke(connection, "broken")
        elif outbox.put(frame, None, Slow.CLOSE, outbox.size + len(frame)) is Verdict.KEPT:
            self.waiting_bytes += len(frame)

    def go_on(self, connection: Connection) -> None:
        """The kernel takes more."""
        outbox = connection.outbox
        if outbox is None:
            return
        before = outbox.size
        wrote = self._sockets.write_on(connection, outbox.head())
        if wrote < 0:
            self._broke(connection, "broken")
            return
        done = outbox.wrote(wrote, self._now())
        self.waiting_bytes += outbox.size - before
        if done:
            connection.outbox = None
            del self._slow[connection]
            self._sockets.watch_writable(connection, on=False)
            self._emptied(connection)

    def _plain(self, frame: bytes) -> bytes:
        """Of a broadcast it is made once, too: the frame that comes next is the same."""
        if self._framed[0] is not frame:
            self._framed = frame, to_plain(frame)
        return self._framed[1]

    def forget(self, connection: Connection) -> None:
        """It is over: what waits for it is nobody's any more."""
        if connection.outbox is not None:
            self.waiting_bytes -= connection.outbox.size
            self._slow.pop(connection, None)
            connection.outbox = None

    def _fell_short(self, connection: Connection, told: Sequence[Telling], wrote: int) -> None:
        """Of several messages: each by itself is what waits, since one may give way and another not."""
        if wrote < 0:
            self._broke(connection, "broken")
            return
        for one in told:
            frame = self._plain(one.frame) if connection.plain else one.frame
            if wrote >= len(frame):
                wrote -= len(frame)
            elif connection.fd >= 0:  # the one before may have been too much
                self._wait(connection, frame, wrote, one.topic, one.slow)
                wrote = 0

    def _wait(self, connection: Connection, frame: bytes, written: int, topic: str | None, slow: Slow) -> None:
        outbox = connection.outbox
        if outbox is None:
            outbox = connection.outbox = Outbox(self._now())
            self._slow[connection] = None
            self._sockets.watch_writable(connection, on=True)
            self._slowed(connection)
        before = outbox.size
        verdict = outbox.put(frame, topic, slow, self._settings.outbox_bytes_max, written=written)
        self.waiting_bytes += outbox.size - before
        if verdict is Verdict.CLOSE:
            self._broke(connection, "too slow")
        elif verdict is not Verdict.KEPT:
            _dropped.inc(1, slow.value)
            if verdict is Verdict.RESUME and topic is not None:
                self._tell_lost(connection, outbox, topic)
        if self.waiting_bytes > self._settings.outboxes_bytes_max:
            self.relieve(int(self._settings.outboxes_bytes_max * _RELIEF))

    def _tell_lost(self, connection: Connection, outbox: Outbox, topic: str) -> None:
        """Whatever the bound says: a loss that nobody is told of is the one wrong answer. One a topic may wait."""
        frame, before = encode_text(messages.lost(topic)), outbox.size
        if connection.plain:
            frame = to_plain(frame)
        outbox.put(frame, topic, Slow.LATEST, before + len(frame))
        self.waiting_bytes += outbox.size - before

    def relieve(self, bytes_max: int) -> None:
        """Too much waits in all: those for whom most waits go first, until so much is left."""
        worst = sorted(self._slow, key=lambda one: one.outbox.size if one.outbox is not None else 0, reverse=True)
        for connection in worst:
            if self.waiting_bytes <= bytes_max:
                break
            self._broke(connection, "memory")
