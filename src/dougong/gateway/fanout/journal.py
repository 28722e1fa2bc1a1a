"""A hub's history on disk, for the next hub: what was told once is never taken back.

Appended to, once a turn of the loop, without waiting for the disk: what a process wrote survives that process, and when
the machine goes, so do all its connections; a journal of before its last start is put away. When it has grown to twice
what it holds, it is written anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from dougong.errors import Invalid
from dougong.gateway.fanout.wire import Frames
from dougong.gateway.history import History, HistoryPolicy, Offset
from dougong.telemetry import get_logger

__all__ = ["Journal"]

_log = get_logger("dougong.gateway")
_ROOM_BYTES = 64 * 1024 * 1024
_READ_BYTES = 1024 * 1024
_FRAME_BYTES = 256 * 1024

_Kept = tuple[float, str, bytes | None, Offset]
"""As `History.put` takes it."""


class _Head(msgspec.Struct, frozen=True, array_like=True):
    boot: str
    life: str
    forgotten: int


class _Part(msgspec.Struct, frozen=True, array_like=True):
    forgotten: int
    """As the history counted then."""
    kept: list[_Kept]


_head = msgspec.msgpack.Decoder(_Head)
_part = msgspec.msgpack.Decoder(_Part)
_encode = msgspec.msgpack.Encoder().encode


def _boot() -> str:
    """Another one each time that the machine starts: its monotonic clock begins anew then, too."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Journal:
    """`history` is what the last hub had, or new. Raises OSError."""

    def __init__(
        self,
        path: Path,
        policy: HistoryPolicy,
        *,
        random: Callable[[], float],
        boot: Callable[[], str] = _boot,
        room_bytes: int = _ROOM_BYTES,
    ) -> None:
        self._path = path
        self._room_bytes = room_bytes
        self._boot = boot()
        self._waiting: list[_Kept] = []
        self.history = History(policy, random=random)
        self._file = -1
        try:
            self._read()
        except FileNotFoundError:
            pass
        except (msgspec.MsgspecError, Invalid, ValueError) as error:
            _log.warning(
                "journal_unreadable", path=str(path), error=str(error), remedy="none needed: offsets begin anew"
            )
            self.history = History(policy, random=random)
        self._rewrite()

    def add(self, now: float, topic: str, data: bytes, offset: Offset) -> None:
        """What the history has just been given."""
        self._waiting.append((now, topic, data, offset))

    def flush(self) -> None:
        if not self._waiting:
            return
        self._append(_encode(_Part(self.history.forgotten, self._waiting)))
        self._waiting.clear()
        if self._size > self._room_bytes + 2 * self.history.bytes:
            self._rewrite()

    def close(self) -> None:
        if self._file >= 0:
            try:
                self.flush()
            finally:
                os.close(self._file)
                self._file = -1

    def _read(self) -> None:
        history, frames = self.history, Frames()
        head: _Head | None = None
        most = 0
        with self._path.open("rb") as file:
            while data := file.read(_READ_BYTES):
                for frame in frames.feed(data):  # a last one that was cut short was told to nobody
                    if head is None:
                        head = _head.decode(frame)
                        if head.boot != self._boot:
                            return
                        history.resume(head.life, head.forgotten)
                        continue
                    part = _part.decode(frame)
                    most = max(most, part.forgotten)
                    for kept in part.kept:
                        history.put(*kept)
        if head is not None and max(most, history.forgotten) != head.forgotten:
            # Not everything is forgotten at the same moment as then: what is unknown now gets an epoch that none had.
            history.resume(head.life, max(most, history.forgotten) + 1)

    def _rewrite(self) -> None:
        """A file of what is held now, in the place of the old one."""
        fresh = self._path.with_suffix(".new")
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        before, self._file, self._size = self._file, file, 0
        try:
            forgotten = self.history.forgotten
            self._append(_encode(_Head(self._boot, self.history.life, forgotten)))
            part: list[_Kept] = []
            size = 0
            for kept in self.history.all():
                part.append(kept)
                size += len(kept[2] or b"") + 100
                if size > _FRAME_BYTES:
                    self._append(_encode(_Part(forgotten, part)))
                    part, size = [], 0
            self._append(_encode(_Part(forgotten, part)))
            fresh.replace(self._path)
        except BaseException:
            os.close(file)
            self._file = before
            raise
        if before >= 0:
            os.close(before)

    def _append(self, body: bytes) -> None:
        frame = memoryview(len(body).to_bytes(4, "big") + body)
        try:
            while frame:
                frame = frame[os.write(self._file, frame) :]
        except OSError:
            os.ftruncate(self._file, self._size)  # half a frame would hide all that come after it
            os.lseek(self._file, self._size, os.SEEK_SET)
            raise
        self._size += len(body) + 4
