"""The hub: one process of a machine through which all others' messages go, so that offsets are the same everywhere.

Whoever holds the folder's lock is the hub; the kernel lets go of it when its holder dies, however it dies. Before
anything is told, it is in the journal, so that the next hub goes on where this one was killed.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random as _random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol, cast

import msgspec

from dougong.errors import Conflict, Invalid, Unavailable
from dougong.gateway._metrics import fan_out_cut
from dougong.gateway.fanout._protocol import Published
from dougong.gateway.fanout.journal import Journal
from dougong.gateway.fanout.wire import (
    Acked,
    Answered,
    Frames,
    FromHub,
    Join,
    Joined,
    Leave,
    Part,
    Publish,
    Since,
    ToHub,
    Writer,
    to_hub,
)
from dougong.gateway.history import History, HistoryPolicy, Offset
from dougong.gateway.outbox import Slow
from dougong.gateway.topics import Topics
from dougong.telemetry import get_logger

__all__ = ["SOCKET", "Hub", "Switch", "socket_path"]

_log = get_logger("dougong.gateway")
SOCKET = "hub.sock"
_SOCKET_PATH_BYTES_MAX = 107
"""What the kernel takes."""
_HIGH_BYTES = 1024 * 1024
"""With so much waiting for a process, nothing more is read from it."""
_OUT_BYTES_MAX = 16 * 1024 * 1024
"""With so much it is cut off: it comes back and gets what it missed from the history."""


def socket_path(folder: Path) -> str:
    path = str(folder / SOCKET)
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES_MAX:
        raise Invalid(
            f"{path} is longer than the {_SOCKET_PATH_BYTES_MAX} bytes that a socket's path may have; "
            "choose another folder for the hub",
            code="path_too_long",
        )
    return path


class Peer(Protocol):
    """A process, as the switch sees it."""

    topics: str | set[str] | None

    def say(self, record: FromHub, size: int = 0) -> None: ...


class Switch:
    """Who gets what: all of a hub that is neither sockets nor files. Times are monotonic seconds, passed in."""

    def __init__(self, history: History, keep: Callable[[float, str, bytes, Offset], None]) -> None:
        self._history = history
        self._keep = keep
        self._members: Topics[Peer] = Topics()

    def hear(self, peer: Peer, record: ToHub, now: float) -> None:
        if isinstance(record, Publish):
            self._publish(peer, record, now)
        elif isinstance(record, Join):
            self._join(peer, record, now)
        elif isinstance(record, Leave):
            self._members.unsubscribe(peer, record.topic)
        elif isinstance(record, Since):
            missed = self._history.since(record.topic, record.offset, now)
            for number, data in missed.messages:
                peer.say(Part(number, data), len(data))
            peer.say(Answered(missed.now, missed.complete))
        else:
            peer.say(Acked(None))

    def gone(self, peer: Peer) -> None:
        self._members.drop(peer)

    def _publish(self, peer: Peer, record: Publish, now: float) -> None:
        topic, data, offset = record.topic, record.data, None
        if record.keep:
            offset = self._history.add(topic, data, now)
            self._keep(now, topic, data, offset)
        members = self._members.members(topic)
        if members:
            published, size = Published(topic, data, offset, record.slow), len(topic) + len(data)
            for member in members:
                member.say(published, size)
        peer.say(Acked(offset))

    def _join(self, peer: Peer, record: Join, now: float) -> None:
        topic, after = record.topic, record.after
        self._members.subscribe(peer, topic)
        if after is None:
            peer.say(Joined(topic, self._history.position(topic), complete=True), len(topic))
            return
        missed = self._history.since(topic, after, now)
        for number, data in missed.messages if missed.complete else ():
            # How slow readers are treated was not kept: all that is kept can be resumed.
            peer.say(Published(topic, data, Offset(missed.now.epoch, number), Slow.RESUME), len(topic) + len(data))
        peer.say(Joined(topic, missed.now, missed.complete), len(topic))


class Hub:
    """`Hub(folder)`; `start` raises `Conflict` (`hub_is_elsewhere`) while another process is it, `stand_by` waits for
    that; then `stop`.

    `folder` is the machine's own (not on a network), and is closed to other users when it is created here.
    """

    def __init__(
        self,
        folder: Path,
        policy: HistoryPolicy | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._folder = folder
        self._policy = policy if policy is not None else HistoryPolicy()
        self._now = now
        self._random = random
        self._lock = -1
        self._journal: Journal | None = None
        self._server: asyncio.Server | None = None
        self._lines: set[_Line] = set()

    async def start(self) -> None:
        path = socket_path(self._folder)
        self._lock = _take(self._folder)
        try:
            open_journal = partial(Journal, self._folder / "history", self._policy, random=self._random)
            journal = self._journal = await asyncio.to_thread(open_journal)  # it may be long
            switch = Switch(journal.history, journal.add)
            line = partial(_Line, self._lines, switch, journal, self._now)
            Path(path).unlink(missing_ok=True)  # noqa: ASYNC240 (of a hub that is dead: we have its lock)
            self._server = await asyncio.get_running_loop().create_unix_server(line, path, backlog=1024)
        except BaseException:
            self._let_go()
            raise
        _log.info("hub", folder=str(self._folder), pid=os.getpid(), topics=len(journal.history))

    async def stand_by(self, look_again_s: float = 0.05) -> None:
        """Start as soon as no other process is the hub."""
        while True:
            try:
                await self.start()
                return
            except Conflict:
                await asyncio.sleep(look_again_s)

    async def stop(self) -> None:
        """The next process to ask for it is the hub, and goes on with this one's history."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for line in tuple(self._lines):
            line.end()
        self._let_go()

    def _let_go(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


class _Line(asyncio.Protocol):
    """A process that is connected to the hub."""

    def __init__(self, lines: set[_Line], switch: Switch, journal: Journal, now: Callable[[], float]) -> None:
        self._lines = lines
        self._switch = switch
        self._journal = journal
        self._now = now
        self._frames = Frames()
        self.topics: str | set[str] | None = None
        self._transport: asyncio.Transport
        self._writer: Writer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._transport.set_write_buffer_limits(high=_HIGH_BYTES)
        self._writer = Writer(self._write, asyncio.get_running_loop().call_soon)
        self.say = self._writer.say
        self._lines.add(self)

    def data_received(self, data: bytes) -> None:
        if self not in self._lines:
            return
        try:
            for frame in self._frames.feed(data):
                now, hear = self._now(), self._switch.hear
                for record in to_hub.decode(frame):
                    hear(self, record, now)
                if self not in self._lines:  # by what was said to it
                    self._switch.gone(self)
                    return
        except (Invalid, msgspec.MsgspecError, OSError) as error:
            _log.error("hub_cuts_off", error=str(error), remedy="run the same version everywhere; see the disk")
            self.cut()

    def pause_writing(self) -> None:
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.cut()

    def end(self) -> None:
        """Over, but what was heard is answered."""
        self._writer.flush()
        self._transport.close()
        self._forget()

    def cut(self) -> None:
        """Over, now."""
        self._forget()
        self._transport.abort()

    def _forget(self) -> None:
        self._lines.discard(self)
        self._switch.gone(self)

    def _write(self, frame: bytes) -> None:
        if self._transport.is_closing():
            return
        try:
            self._journal.flush()  # first: what is told is never forgotten
        except OSError as error:
            _log.error("hub_cannot_keep", error=str(error), remedy="free the disk that the hub's folder is on")
            self.cut()
            return
        if self._transport.get_write_buffer_size() + len(frame) > _OUT_BYTES_MAX:
            fan_out_cut.inc()
            _log.warning(
                "hub_cuts_off", error="a process does not read", waiting=self._transport.get_write_buffer_size()
            )
            self.cut()
            return
        self._transport.write(frame)


def _take(folder: Path) -> int:
    """The lock's descriptor."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "hub.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(f"the hub's folder {folder} cannot be used: {error.strerror}", code="bad_folder") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
    except OSError as error:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace") or "unknown"
        os.close(lock)
        if not isinstance(error, BlockingIOError):
            raise Unavailable(f"the hub's folder {folder} cannot be used: {error}", code="bad_folder") from error
        raise Conflict(f"process {holder} is the hub of {folder}", code="hub_is_elsewhere") from None
    return lock
