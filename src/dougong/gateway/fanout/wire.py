"""What processes of one machine say to the hub over a Unix socket, and how it is framed.

A frame is four bytes of length and a list in MessagePack: all that was said in one turn of a loop, since what one
message costs is mostly what one write and one call cost. Nobody but this machine's own processes can connect (the
socket's folder is closed to others); lengths are bounded all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from dougong.errors import Invalid
from dougong.gateway.fanout._protocol import MESSAGE_BYTES_MAX, Published
from dougong.gateway.history import Offset
from dougong.gateway.outbox import Slow

__all__ = [
    "FRAME_BYTES_MAX",
    "Acked",
    "Answered",
    "Frames",
    "FromHub",
    "Join",
    "Joined",
    "Leave",
    "Part",
    "Ping",
    "Publish",
    "Since",
    "ToHub",
    "Writer",
    "from_hub",
    "to_hub",
]

BATCH_BYTES = 256 * 1024
"""So much makes a frame at once; what waits is then less than that and one message."""
FRAME_BYTES_MAX = 2 * (BATCH_BYTES + MESSAGE_BYTES_MAX)
_OVERHEAD_BYTES = 64
"""Of a message, without topic and data; roughly."""


class Publish(msgspec.Struct, frozen=True, array_like=True, tag="p"):
    """Answered in order, by `Acked`."""

    topic: str
    data: bytes
    slow: Slow
    keep: bool


class Join(msgspec.Struct, frozen=True, array_like=True, tag="j"):
    """`after` is what a process that had joined before saw last: it gets what came since, or is told that it cannot."""

    topic: str
    after: Offset | None = None


class Leave(msgspec.Struct, frozen=True, array_like=True, tag="l"):
    topic: str


class Since(msgspec.Struct, frozen=True, array_like=True, tag="s"):
    """Answered in order, by `Part`s and `Answered`."""

    topic: str
    offset: Offset


class Ping(msgspec.Struct, frozen=True, array_like=True, tag="i"):
    """Answered in order, by `Acked`."""


class Acked(msgspec.Struct, frozen=True, array_like=True, tag="a"):
    offset: Offset | None


class Joined(msgspec.Struct, frozen=True, array_like=True, tag="J"):
    """Everything published after `now` follows. Not `complete`: some after `after` is lost."""

    topic: str
    now: Offset
    complete: bool


class Part(msgspec.Struct, frozen=True, array_like=True, tag="P"):
    number: int
    data: bytes


class Answered(msgspec.Struct, frozen=True, array_like=True, tag="A"):
    now: Offset
    complete: bool


ToHub = Publish | Join | Leave | Since | Ping
FromHub = Published | Acked | Joined | Part | Answered
to_hub: msgspec.msgpack.Decoder[list[ToHub]] = msgspec.msgpack.Decoder(list[ToHub])
from_hub: msgspec.msgpack.Decoder[list[FromHub]] = msgspec.msgpack.Decoder(list[FromHub])
_encode = msgspec.msgpack.Encoder().encode


class Frames:
    """Cuts bytes as they come into frames. Raises `Invalid` (`bad_frame`) for a length that none has."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= 4:
                size = int.from_bytes(buffer[start : start + 4], "big")
                if size > FRAME_BYTES_MAX:
                    raise Invalid(f"a frame of {size} bytes; none has over {FRAME_BYTES_MAX}", code="bad_frame")
                if len(buffer) - start - 4 < size:
                    break
                frame = bytes(buffer[start + 4 : start + 4 + size])
                start += 4 + size
                yield frame
        finally:
            del buffer[:start]


class Writer:
    """Gathers what is said in one turn of the loop. `write` takes a frame; `soon` calls back at the turn's end."""

    __slots__ = ("_records", "_size", "_soon", "_write")

    def __init__(self, write: Callable[[bytes], None], soon: Callable[[Callable[[], None]], object]) -> None:
        self._write = write
        self._soon = soon
        self._records: list[ToHub | FromHub] = []
        self._size = 0

    def say(self, record: ToHub | FromHub, size: int = 0) -> None:
        """`size`: bytes of its topic and data."""
        if not self._records:
            self._soon(self.flush)
        self._records.append(record)
        self._size += size + _OVERHEAD_BYTES
        if self._size >= BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        if not self._records:
            return
        body = _encode(self._records)
        self._records = []
        self._size = 0
        self._write(len(body).to_bytes(4, "big") + body)
