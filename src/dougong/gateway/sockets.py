"""Sockets by their numbers: the shell that lets a process hold as many connections as it has descriptors.

One epoll instance holds them all, and the event loop watches that one: thousands of ready sockets cost the loop one
callback. A connection is an integer to the kernel and a `Connection` here; no transport, no protocol object and no
buffer of its own stands between (decision 0050 has the measurement). What is read goes through one buffer's worth at a
time and is kept only as far as a frame is incomplete.

Nobody here knows what is said: the owner is told what came and says what to write.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from dougong.errors import Invalid
from dougong.gateway.connection import Connection
from dougong.telemetry import get_logger

__all__ = ["Came", "Owner", "Sockets"]

_log = get_logger("dougong.gateway")

READ_BYTES = 1024
"""Which is more than most messages have: room for 16 KiB costs a fifth of what reading does, each time."""
MORE_BYTES = 64 * 1024
"""Of who sends long ones."""
EVENTS_MAX = 1024
"""Handled in one turn; then the loop does what else there is."""
LOOKS_MAX = 8
"""At who is ready, in one turn: while several are each time, a turn of the loop for every few of them is dear."""
ACCEPTS_MAX = 64
BACKLOG = 4096
_IN, _OUT, _HANG_UP, _EDGE = 0x1, 0x4, 0x2000, 1 << 31
"""As Linux numbers them: what has no epoll has no such names in `select`, and should be able to import this."""
_WATCH = _IN | _HANG_UP | _EDGE
"""Once for what comes: told until it is read, the kernel would look at each connection twice."""
_BOTH = _IN | _OUT
_USER_TIMEOUT_MS = 30_000
"""How long the kernel repeats what a peer does not acknowledge: half-open peers are gone then, whatever we do."""


Came = Callable[[Connection, bytes], None]


class Owner(Protocol):
    """Whose connections these are. Nothing of it may raise."""

    def accepted(self, fd: int, ip: str) -> Connection | None:
        """Somebody connected; None closes at once."""

    came: Came
    """Bytes were read."""

    def writable(self, connection: Connection) -> None:
        """What waits in the outbox may go on (see `Sockets.write_on`)."""

    def gone(self, connection: Connection, reason: str) -> None:
        """The peer closed, or the connection broke. Its descriptor is closed already."""

    def full(self) -> None:
        """Nobody can be accepted: no descriptors are left."""


class Sockets:
    """Listening sockets and connections of one event loop."""

    def __init__(self, owner: Owner) -> None:
        if not hasattr(select, "epoll"):
            raise Invalid("a gateway needs epoll: run it on Linux", code="no_epoll")
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._listeners: dict[int, socket.socket] = {}
        self._connections: list[Connection | None] = []
        """By descriptor: the kernel gives the lowest free one, so there are no gaps to speak of."""
        self._resting: asyncio.TimerHandle | None = None
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY)
        """Given up for a moment to turn somebody away when no other descriptor is left."""
        self._loop.add_reader(self._epoll.fileno(), self._turn)

    def listen(self, host: str, port: int, *, shared: bool = False) -> int:
        """Accept there; the port. `shared`: other processes listen there, too. Raises `Invalid` when it is taken."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            # What is accepted inherits these.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
            listener.bind((host, port))
        except OSError as error:
            listener.close()
            raise Invalid(
                f"cannot listen on {host}:{port}: {error.strerror}; is something else there?",
                code="cannot_listen",
                address=f"{host}:{port}",
            ) from error
        listener.listen(BACKLOG)
        listener.setblocking(False)
        self._listeners[listener.fileno()] = listener
        self._epoll.register(listener.fileno(), _IN)
        return int(listener.getsockname()[1])

    def stop_listening(self) -> None:
        """Accept nobody any more. Whoever stands in the kernel's queue is let in first: closing would lose them."""
        listeners, self._listeners = self._listeners, {}
        for fd, listener in listeners.items():
            self._epoll.unregister(fd)
            for _ in range(BACKLOG // ACCEPTS_MAX):
                if not self._accept(listener):
                    break
            listener.close()
        if self._resting is not None:  # also when there was no descriptor left for the last of them
            self._resting.cancel()
            self._resting = None

    def close(self) -> None:
        """Let go of everything."""
        if self._epoll.closed:
            return
        self.stop_listening()
        self._loop.remove_reader(self._epoll.fileno())
        for connection in self._connections:
            if connection is not None:
                self.drop(connection)
        self._epoll.close()
        if self._spare is not None:
            os.close(self._spare)

    def write(self, connection: Connection, frame: bytes) -> int:
        """Hand bytes to the kernel: how many it took; -1 when the connection is broken (the owner is not told)."""
        try:
            return os.write(connection.fd, frame)
        except BlockingIOError:
            return 0
        except OSError:
            return -1

    def write_on(self, connection: Connection, parts: Sequence[bytes | memoryview]) -> int:
        """The same with several pieces."""
        try:
            return os.writev(connection.fd, parts)
        except BlockingIOError:
            return 0
        except OSError:
            return -1

    def watch_writable(self, connection: Connection, on: bool) -> None:
        """Whether to tell the owner when more can be written."""
        self._epoll.modify(connection.fd, _BOTH if on else _WATCH)

    def finish(self, connection: Connection) -> None:
        """Nothing more is written: the peer reads to the end of what was."""
        view = socket.socket(fileno=connection.fd)
        try:
            view.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # broken already, which is told when it is read
        finally:
            view.detach()

    def drop(self, connection: Connection) -> None:
        """Close its descriptor; again does nothing. What the kernel has is still sent."""
        fd = connection.fd
        if fd < 0:
            return
        connection.fd = -1
        self._connections[fd] = None
        os.close(fd)  # which takes it out of the epoll set: nobody else has a duplicate

    def _turn(self) -> None:
        left = EVENTS_MAX
        for _ in range(LOOKS_MAX):
            events = self._epoll.poll(0, left)
            self._serve(events)
            left -= len(events)
            if left <= 0 or len(events) < 2 or self._epoll.closed:
                break

    def _serve(self, events: Sequence[tuple[int, int]]) -> None:
        connections, owner, came, read = self._connections, self._owner, self._owner.came, os.read
        for fd, event in events:
            # A descriptor may have been closed and given to somebody else since: then there is nothing to read.
            connection = connections[fd] if fd < len(connections) else None
            if connection is None:
                if fd in self._listeners:
                    self._accept(self._listeners[fd])
                continue
            try:
                if event & _OUT:
                    owner.writable(connection)
                    if event == _OUT or connection.fd != fd:
                        continue
                try:
                    data, more = read(fd, READ_BYTES), False
                except BlockingIOError:
                    continue
                except OSError as error:
                    self._gone(connection, error.strerror or "broken")
                    continue
                if len(data) == READ_BYTES:
                    rest, more = self._more(fd)
                    data += rest
                elif not data:
                    self._gone(connection, "closed by the peer")
                    continue
                came(connection, data)
                if (more or event != _IN) and connection.fd == fd:
                    # Or the end: others first, and it is told again if so.
                    self._epoll.modify(fd, _WATCH if connection.outbox is None else _BOTH)
            except Exception:  # noqa: BLE001 (a bug met by one connection must not stop, or spin on, all the others)
                _log.exception("connection_failed", connection=connection.serial)
                self._gone(connection, "fault")

    def _gone(self, connection: Connection, reason: str) -> None:
        self.drop(connection)
        self._owner.gone(connection, reason)

    @staticmethod
    def _more(fd: int) -> tuple[bytes, bool]:
        """What comes behind a whole read, and whether there may be something behind that."""
        try:
            data = os.read(fd, MORE_BYTES)
        except BlockingIOError:
            return b"", False
        except OSError:
            return b"", True
        return data, not 0 < len(data) < MORE_BYTES

    def _accept(self, listener: socket.socket) -> bool:
        """Whether more may stand in the queue that can be let in."""
        for _ in range(ACCEPTS_MAX):
            try:
                accepted, address = listener.accept()
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._turn_away(listener)
                elif error.errno not in (errno.ENOBUFS, errno.ENOMEM):
                    continue  # accept(2): trouble of the one who was to be accepted
                self._rest()
                return False
            accepted.setblocking(False)
            fd = accepted.detach()
            connection = self._owner.accepted(fd, address[0])
            if connection is None:
                os.close(fd)
                continue
            while len(self._connections) <= fd:
                self._connections.extend([None] * max(64, len(self._connections)))
            self._connections[fd] = connection
            try:
                self._epoll.register(fd, _WATCH)
            except OSError:  # the kernel has no memory for it, or the user's watches are used up
                self.drop(connection)
                self._owner.gone(connection, "unwatched")
        return True

    def _turn_away(self, listener: socket.socket) -> None:
        """No descriptor is left: those who wait are told by a close, which is better than being left waiting."""
        for _ in range(ACCEPTS_MAX):
            if self._spare is not None:
                os.close(self._spare)
                self._spare = None
            try:
                listener.accept()[0].close()
            except OSError:
                break
        try:
            self._spare = os.open(os.devnull, os.O_RDONLY)
        except OSError:
            self._spare = None  # somebody was faster; the next time there may be one

    def _rest(self) -> None:
        """No descriptor is left. A listener that is ready and cannot be served would keep the loop busy: look away."""
        self._owner.full()
        if self._resting is None:
            for fd in self._listeners:
                self._epoll.modify(fd, 0)
            self._resting = self._loop.call_later(0.25, self._go_on)

    def _go_on(self) -> None:
        self._resting = None
        for fd in self._listeners:
            self._epoll.modify(fd, _IN)
