"""Plain frames over TCP: for clients that are no browsers, and would mask and hash for nothing.

A connection begins as all do, with an HTTP head that asks for an upgrade, so tokens, limits, refusals and balancers are
the same; it only asks for `dougong` instead of `websocket`. What follows the answer is frames, the same both ways:

    1 byte     kind: 1 text, 8 close, 9 ping, 10 pong, as WebSocket numbers them
    3 bytes    length of what follows, big-endian
    …          text: JSON; close: two bytes of code and a reason

Everything is checked as it is in `frames`, lengths before anything is kept. A message is one frame.
"""

from __future__ import annotations

from typing import ClassVar

from dougong.gateway.connection import Connection
from dougong.gateway.frames import CloseCode, FrameLimits, FrameReader, Opcode, Payload, ProtocolError, Received

__all__ = ["PlainConnection", "PlainReader", "encode_plain", "to_plain"]

_HEAD_BYTES = 4
_SIZE_MAX = (1 << 24) - 1
_CONTROL_BYTES_MAX = 125
_KINDS = frozenset({Opcode.TEXT, Opcode.BINARY, Opcode.CLOSE, Opcode.PING, Opcode.PONG})


def encode_plain(kind: int, data: bytes) -> bytes:
    """One frame. Raises `ValueError` for one of over 16 MiB, which nobody would take."""
    if len(data) > _SIZE_MAX:
        raise ValueError(f"a frame has at most {_SIZE_MAX} bytes")
    return bytes((kind,)) + len(data).to_bytes(3, "big") + data


def to_plain(frame: bytes) -> bytes:
    """The same as one of WebSocket's, whole and unmasked: what a gateway sends was made for all its connections."""
    size = frame[1]
    return encode_plain(frame[0] & 0x0F, frame[2 if size < 126 else 4 if size == 126 else 10 :])


class PlainReader(FrameReader):
    """Reads other heads, and is the same behind them."""

    __slots__ = ()

    def only_texts(self, data: bytes, limits: FrameLimits) -> list[bytes] | None:
        """None: what looks like frames of a WebSocket are none here."""
        return None

    def _frame(self, data: bytes, at: int, end: int, limits: FrameLimits, received: list[Received]) -> int:
        body = at + _HEAD_BYTES
        if end < body:
            self._rest = data[at:]
            return end
        kind, size = data[at], int.from_bytes(data[at + 1 : body], "big")
        if kind not in _KINDS:
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, f"unknown kind {kind} of frame")
        if kind >= Opcode.CLOSE and size > _CONTROL_BYTES_MAX:
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, f"control frame of over {_CONTROL_BYTES_MAX} bytes")
        if size > limits.message_bytes_max:
            raise ProtocolError(
                CloseCode.TOO_BIG, f"message of over {limits.message_bytes_max} bytes; send less, or in several"
            )
        if end - body >= size:
            self._whole(kind, data[body : body + size], True, limits, received)
            return body + size
        if kind < Opcode.CLOSE:
            self._begin(kind, True, limits)
        self._payload = Payload(kind, size, None)
        self._go_on(data[body:], received)
        return end


class PlainConnection(PlainReader, Connection):
    """What a connection becomes when its handshake asked for plain frames: the same slots, read by other rules."""

    __slots__ = ()
    plain: ClassVar[bool] = True
