"""Which records of one partition are settled, though they settle in any order.

A log knows one number per partition: everything below is over. Jobs are taken by priority, so records settle out of
order; the number is the lowest that is not settled, and a map of those above it travels beside it as the commit's
metadata. Who gets the partition next reads from the number and passes over what is in the map.

The broker takes 4,096 bytes of metadata. So the map is a bitmap, packed, and intake stops at three quarters of what
a bitmap could hold: what is on its way by then still fits.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Collection

__all__ = ["METADATA_BYTES_MAX", "SPAN_MAX", "Offsets", "read_map"]

METADATA_BYTES_MAX = 4096
"""Kafka's `offset.metadata.max.bytes` unless an operator set it."""
_MARK = "d1:"
_RAW_BYTES_MAX = (METADATA_BYTES_MAX - len(_MARK)) // 4 * 3 - 4
_BITS_MAX = (_RAW_BYTES_MAX - 16) * 8  # what does not pack well comes out a few bytes longer than it went in
SPAN_MAX = _BITS_MAX * 3 // 4
"""Offsets between the lowest that is not settled and the next to be read at which intake stops."""


class Offsets:
    """Of one partition, from `start` on. `finished` are offsets above it that a map said were settled."""

    def __init__(self, start: int, finished: Collection[int] = ()) -> None:
        self._next = start
        self._open: dict[int, None] = {}  # read and not settled; they are read rising, so the first is the lowest
        self._ahead = {offset for offset in finished if offset >= start}

    @property
    def low(self) -> int:
        """Everything below is settled: what is committed."""
        return next(iter(self._open), self._next)

    @property
    def next(self) -> int:
        """The next to be read."""
        return self._next

    @property
    def full(self) -> bool:
        """Whether intake has to stop until the lowest settles."""
        return self._next - self.low >= SPAN_MAX

    def read(self, offset: int) -> bool:
        """A record arrived; False when it is settled already, and so to be passed over.

        Offsets without a record (of aborted transactions, of compaction) are settled by the one after them.
        """
        if offset < self._next:
            return False
        self._next = offset + 1
        if offset in self._ahead:
            self._ahead.discard(offset)
            return False
        self._open[offset] = None
        return True

    def settle(self, offset: int) -> None:
        """It will not be needed again. Settling it once more changes nothing."""
        self._open.pop(offset, None)

    def commit(self) -> tuple[int, str]:
        """The offset to commit, and its metadata: never longer than `METADATA_BYTES_MAX`."""
        low = self.low
        return low, _write_map(low, self._above(low))

    def settled(self, offset: int) -> bool:
        """Whether it is."""
        return offset < self.low or offset in self._ahead or (offset < self._next and offset not in self._open)

    def _above(self, low: int) -> int:
        """A bit for each settled offset from `low` on, as far as there is room: what has none comes again."""
        bits = (1 << (self._next - low)) - 1
        for offset in self._open:
            bits ^= 1 << (offset - low)
        # What was passed over without a record of its own is settled by then, and needs no remembering.
        self._ahead = {offset for offset in self._ahead if offset >= self._next}
        for offset in self._ahead:
            if offset - low < _BITS_MAX:
                bits |= 1 << (offset - low)
        return bits & ((1 << _BITS_MAX) - 1)


def _write_map(low: int, bits: int) -> str:
    if not bits:
        return ""
    packed = zlib.compress(bits.to_bytes((bits.bit_length() + 7) // 8, "little"), 6)
    text = _MARK + base64.b64encode(_check(low, packed) + packed).decode()
    assert len(text) <= METADATA_BYTES_MAX, len(text)
    return text


def read_map(metadata: str, low: int, end: int) -> frozenset[int]:
    """Settled offsets from `low` on, of a commit's metadata, in a log that ends before `end`.

    Raises `ValueError`, saying why, for what is not a map of that offset or speaks of records that do not exist: it is
    of another log. Whoever believed it would pass over jobs that nobody ran.
    """
    if not metadata:
        return frozenset()
    if not metadata.startswith(_MARK) or len(metadata) > METADATA_BYTES_MAX:
        raise ValueError("it is not in a form that is known here")
    try:
        raw = base64.b64decode(metadata[len(_MARK) :], validate=True)
        inflate = zlib.decompressobj()
        packed = raw[4:]
        plain = inflate.decompress(packed, _BITS_MAX // 8 + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"it cannot be read: {error}") from None
    if raw[:4] != _check(low, packed) or not inflate.eof or len(plain) * 8 > _BITS_MAX:
        raise ValueError(f"it is not of offset {low}")
    bits = int.from_bytes(plain, "little")
    if low + bits.bit_length() > end:
        raise ValueError(f"it goes to {low + bits.bit_length() - 1}, and the log ends before {end}")
    return frozenset(low + bit for bit in range(bits.bit_length()) if bits >> bit & 1)


def _check(low: int, packed: bytes) -> bytes:
    return zlib.crc32(packed, low & 0xFFFFFFFF).to_bytes(4, "big")
