"""Frames as a swarm writes and reads most of them, at a fraction of what the careful way takes: what is measured is the
server, and the less its clients take of the same cores, the more."""

from __future__ import annotations

from dougong.gateway import Opcode, encode_frame

__all__ = ["KEY", "text_frame", "whole_texts"]

KEY = bytes(4)
"""Masks protect proxies from browsers; neither is here. With this one what is masked is what it was."""
_WHOLE_TEXT = 0x80 | Opcode.TEXT
_SHORT = 126
_HEADS = tuple(bytes((_WHOLE_TEXT, 0x80 | size)) + KEY for size in range(_SHORT))


def text_frame(text: bytes) -> bytes:
    """A client's."""
    size = len(text)
    return _HEADS[size] + text if size < _SHORT else encode_frame(Opcode.TEXT, text, key=KEY)


def whole_texts(data: bytes) -> list[bytes] | None:
    """A server's texts of under 64 KiB, when there is nothing but them; else None."""
    texts: list[bytes] = []
    at, end = 0, len(data)
    while at < end:
        if end - at < 4 or data[at] != _WHOLE_TEXT:
            return None
        size, body = data[at + 1], at + 2
        if size == _SHORT:
            size, body = data[at + 2] << 8 | data[at + 3], at + 4
        elif size > _SHORT:
            return None
        at = body + size
        if at > end:
            return None
        texts.append(data[body:at])
    return texts
