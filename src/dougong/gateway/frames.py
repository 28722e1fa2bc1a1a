"""WebSocket frames (RFC 6455), both ways, without I/O: bytes in, messages out; messages in, bytes out.

Everything that is read comes from somebody who may mean harm, so whatever the peer declares is checked before anything
is kept for it, and text is checked as it arrives: a message that cannot become valid UTF-8 is refused at the first
byte that shows it. A connection with nothing half-read costs two slots.

    head        0 FIN, RSV1-3, opcode · 1 MASK, length · 0/2/8 more of length · 4 masking key · payload
    reading     feed ──▶ whole frames ──▶ Received; what is incomplete waits in `_rest` (a head) or `_payload`
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from enum import IntEnum

import msgspec

try:
    from websockets.speedups import apply_mask as mask
except ImportError:  # built without a compiler
    from websockets.utils import apply_mask as mask

__all__ = [
    "CLOSE_REASON_BYTES_MAX",
    "CloseCode",
    "FrameLimits",
    "FrameReader",
    "Opcode",
    "Payload",
    "ProtocolError",
    "Received",
    "encode_close",
    "encode_frame",
    "mask",
    "read_close",
]


class Opcode(IntEnum):
    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class CloseCode(IntEnum):
    """Why a connection ends: RFC 6455, section 7.4.1, and the registry it founded."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED = 1003
    INVALID_TEXT = 1007
    POLICY = 1008
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTARTING = 1012
    TRY_LATER = 1013


class ProtocolError(Exception):
    """The peer broke the protocol: say so with a close frame of this code, and end the connection."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(f"{code.value} {reason}")
        self.code = code
        self.reason = reason
        self.received: Sequence[Received] = ()
        """What was whole before it: said and done, whatever came after."""


class FrameLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one peer may make us keep."""

    message_bytes_max: int = 64 * 1024
    fragments_max: int = 128
    """Frames of one message. Each costs us more than its bytes; a message in tiny ones is an attack, not a need."""
    masked: bool = True
    """What clients send is masked, what servers send is not; the other way round is refused."""


class Received(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A message, or a control frame."""

    opcode: int
    """TEXT, BINARY, CLOSE, PING or PONG."""
    data: bytes
    """TEXT is valid UTF-8."""


_CONTROL_BYTES_MAX = 125
CLOSE_REASON_BYTES_MAX = 123
_NOTHING: tuple[Received, ...] = ()
_DATA = (Opcode.TEXT, Opcode.BINARY)
_CONTROL = (Opcode.CLOSE, Opcode.PING, Opcode.PONG)
_WHOLE_TEXT = 0x80 | Opcode.TEXT
_TEXT_HEADS = tuple(bytes((_WHOLE_TEXT, size)) for size in range(_CONTROL_BYTES_MAX + 1))
"""Of short texts, which most messages are."""


def encode_frame(opcode: int, data: bytes, *, key: bytes | None = None, fin: bool = True) -> bytes:
    """One frame; a client passes a masking key of four random bytes."""
    size = len(data)
    first = (0x80 if fin else 0) | opcode
    bit = 0x80 if key is not None else 0
    if size <= _CONTROL_BYTES_MAX:
        head = bytes((first, bit | size))
    elif size <= 0xFFFF:
        head = bytes((first, bit | 126, size >> 8, size & 0xFF))
    else:
        head = bytes((first, bit | 127)) + size.to_bytes(8, "big")
    return head + data if key is None else head + key + mask(data, key)


def encode_text(data: bytes) -> bytes:
    """A whole text, as a server sends it."""
    size = len(data)
    return _TEXT_HEADS[size] + data if size <= _CONTROL_BYTES_MAX else encode_frame(Opcode.TEXT, data)


def encode_close(code: int | None = None, reason: str = "", *, key: bytes | None = None) -> bytes:
    """A close frame; a reason that is too long is cut between characters."""
    if code is None:
        return encode_frame(Opcode.CLOSE, b"", key=key)
    text = reason.encode()[:CLOSE_REASON_BYTES_MAX].decode(errors="ignore").encode()
    return encode_frame(Opcode.CLOSE, code.to_bytes(2, "big") + text, key=key)


def read_close(data: bytes) -> tuple[int | None, str]:
    """Code and reason of a close frame. Raises `ProtocolError` for codes that nobody may send."""
    if not data:
        return None, ""
    if len(data) == 1:
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, "close frame of one byte")
    code = int.from_bytes(data[:2], "big")
    # 1004 to 1006 and 1015 stand for what happens without a frame; below 3000 only what is registered.
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, f"close code {code} is not to be sent")
    try:
        return code, data[2:].decode()
    except UnicodeDecodeError:
        raise ProtocolError(CloseCode.INVALID_TEXT, "close reason is not UTF-8") from None


class _Message:
    """A message of which more is to come."""

    __slots__ = ("data", "fragments", "text", "whole")

    def __init__(self, opcode: int) -> None:
        self.data = bytearray()
        self.fragments = 0
        self.text = codecs.getincrementaldecoder("utf-8")() if opcode == Opcode.TEXT else None
        self.whole = False
        """Its last frame has begun."""

    @property
    def opcode(self) -> int:
        return Opcode.TEXT if self.text is not None else Opcode.BINARY

    def add(self, part: bytes, *, last: bool) -> None:
        self.data += part
        if self.text is not None:
            try:
                self.text.decode(part, last)
            except UnicodeDecodeError:
                raise ProtocolError(CloseCode.INVALID_TEXT, "text is not UTF-8") from None


class Payload:
    """A frame whose head was read and whose payload is not here yet."""

    __slots__ = ("control", "key", "left", "opcode", "read")

    def __init__(self, opcode: int, left: int, key: bytes | None) -> None:
        self.opcode = opcode
        self.left = left
        self.key = key
        self.read = 0
        self.control = bytearray() if opcode in _CONTROL else None


class FrameReader:
    """The reading side of one connection. Connections are made of it: a subclass adds slots of its own."""

    __slots__ = ("_message", "_payload", "_rest")

    def __init__(self) -> None:
        self._rest: bytes = b""
        """The beginning of a head: 13 bytes at most."""
        self._payload: Payload | None = None
        self._message: _Message | None = None

    @property
    def reading(self) -> bool:
        """Whether something has begun and not ended: then somebody should have a deadline for it."""
        return self._message is not None or self._payload is not None or bool(self._rest)

    def only_texts(self, data: bytes, limits: FrameLimits) -> list[bytes] | None:
        """The texts of what most reads are, at a fraction of what `feed` takes: masked frames with a whole ASCII text
        each, and nothing around them. None for all else: nothing has happened then, and it is to be fed."""
        if self._rest or self._payload is not None or self._message is not None or not limits.masked:
            return None
        texts: list[bytes] = []
        at, end = 0, len(data)
        while at < end:
            if end - at < 8 or data[at] != _WHOLE_TEXT:
                return None
            size, key = data[at + 1] - 0x80, at + 2
            if size > _CONTROL_BYTES_MAX:
                if size == 127:
                    return None
                size, key = data[at + 2] << 8 | data[at + 3], at + 4
                if size < 126:
                    return None
            body = key + 4
            at = body + size
            if at > end or size < 0 or size > limits.message_bytes_max:
                return None
            text = mask(data[body:at], data[key:body])
            if not text.isascii():
                return None
            texts.append(text)
        return texts

    def feed(self, data: bytes, limits: FrameLimits) -> tuple[Received, ...] | list[Received]:
        """What came, whole messages only; what follows a CLOSE is not looked at.

        Raises `ProtocolError`, which has the messages that were whole before. Nothing may be fed after that.
        """
        if self._rest:
            data = self._rest + data
            self._rest = b""
        received: list[Received] = []
        at, end = 0, len(data)
        try:
            if self._payload is not None:
                at = self._go_on(data, received)
            while at < end and not (received and received[-1].opcode == Opcode.CLOSE):
                at = self._frame(data, at, end, limits, received)
        except ProtocolError as error:
            error.received = received
            raise
        return received or _NOTHING

    def _frame(self, data: bytes, at: int, end: int, limits: FrameLimits, received: list[Received]) -> int:
        """Read the frame that begins at `at`; where the next one does, or `end` when more has to come."""
        if end - at < 2:
            self._rest = data[at:]
            return end
        first, second = data[at], data[at + 1]
        opcode, size = first & 0x0F, second & 0x7F
        self._check_head(first, second, opcode, size, limits)
        body = at + 2
        if size >= 126:
            wide = 2 if size == 126 else 8
            if end - body < wide:
                self._rest = data[at:]
                return end
            size = int.from_bytes(data[body : body + wide], "big")
            if size < (126 if wide == 2 else 0x10000):
                raise ProtocolError(CloseCode.PROTOCOL_ERROR, "length in more bytes than it needs")
            body += wide
        so_far = len(self._message.data) if self._message is not None and opcode == Opcode.CONTINUATION else 0
        if so_far + size > limits.message_bytes_max:
            raise ProtocolError(
                CloseCode.TOO_BIG, f"message of over {limits.message_bytes_max} bytes; send less, or in several"
            )
        key: bytes | None = None
        if limits.masked:
            if end - body < 4:
                self._rest = data[at:]
                return end
            key = data[body : body + 4]
            body += 4
        fin = first & 0x80 != 0
        if end - body >= size:
            part = data[body : body + size]
            self._whole(opcode, part if key is None else mask(part, key), fin, limits, received)
            return body + size
        if opcode < Opcode.CLOSE:
            self._begin(opcode, fin, limits)
        self._payload = Payload(opcode, size, key)
        self._go_on(data[body:], received)
        return end

    def _check_head(self, first: int, second: int, opcode: int, size: int, limits: FrameLimits) -> None:
        wrong = CloseCode.PROTOCOL_ERROR
        if first & 0x70:
            raise ProtocolError(wrong, "reserved bit set; no extension was agreed on")
        if (second & 0x80 != 0) is not limits.masked:
            raise ProtocolError(wrong, "frame is not masked" if limits.masked else "frame is masked")
        if opcode >= Opcode.CLOSE:
            if opcode > Opcode.PONG:
                raise ProtocolError(wrong, f"unknown opcode {opcode}")
            if not first & 0x80:
                raise ProtocolError(wrong, "control frame in fragments")
            if size > _CONTROL_BYTES_MAX:
                raise ProtocolError(wrong, f"control frame of over {_CONTROL_BYTES_MAX} bytes")
        elif opcode == Opcode.CONTINUATION:
            if self._message is None:
                raise ProtocolError(wrong, "continuation of nothing")
        elif opcode > Opcode.BINARY:
            raise ProtocolError(wrong, f"unknown opcode {opcode}")
        elif self._message is not None:
            raise ProtocolError(wrong, "new message inside of another")

    def _whole(self, opcode: int, data: bytes, fin: bool, limits: FrameLimits, received: list[Received]) -> None:
        """A frame that is here in one piece."""
        if opcode >= Opcode.CLOSE:
            received.append(Received(opcode, data))
        elif fin and opcode in _DATA:  # a message in one piece: nothing to keep
            if opcode == Opcode.TEXT and not data.isascii():
                try:
                    data.decode()
                except UnicodeDecodeError:
                    raise ProtocolError(CloseCode.INVALID_TEXT, "text is not UTF-8") from None
            received.append(Received(opcode, data))
        else:
            message = self._begin(opcode, fin, limits)
            message.add(data, last=fin)
            self._end_frame(message, received)

    def _begin(self, opcode: int, fin: bool, limits: FrameLimits) -> _Message:
        """A data frame begins."""
        message = self._message
        if message is None:
            message = self._message = _Message(opcode)
        message.fragments += 1
        message.whole = fin
        if message.fragments > limits.fragments_max:
            raise ProtocolError(CloseCode.POLICY, f"message in over {limits.fragments_max} fragments; send larger ones")
        return message

    def _go_on(self, data: bytes, received: list[Received]) -> int:
        """More of a payload; how much of `data` was its."""
        payload = self._payload
        assert payload is not None
        part = data[: payload.left]
        taken = len(part)
        if payload.key is not None:
            turn = payload.read & 3
            part = mask(part, payload.key[turn:] + payload.key[:turn])
        payload.read += taken
        payload.left -= taken
        over = payload.left == 0
        if payload.control is not None:
            payload.control += part
            if over:
                self._payload = None
                received.append(Received(payload.opcode, bytes(payload.control)))
            return taken
        message = self._message
        assert message is not None
        message.add(part, last=message.whole and over)
        if over:
            self._payload = None
            self._end_frame(message, received)
        return taken

    def _end_frame(self, message: _Message, received: list[Received]) -> None:
        if message.whole:
            self._message = None
            received.append(Received(message.opcode, bytes(message.data)))
