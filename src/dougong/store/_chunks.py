"""How many rows travel together: few round trips, bounded packets, few different statements to prepare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dougong.store._protocol import Value

__all__ = ["by_size", "by_twos"]

PARAMETERS_MAX = 16_384
"""In one statement; the protocols end at 65,535."""
PACKET_BYTES_MAX = 4 << 20
"""About; servers take 16 MiB unless told otherwise, and a single value must have room, too."""


def by_twos(rows: Sequence[Sequence[Value]], marks: int) -> Iterator[Sequence[Sequence[Value]]]:
    """Parts of 2^n rows: so a statement of any size is one of a dozen, and those stay prepared."""
    most = max(1, PARAMETERS_MAX // max(marks, 1))
    most = 1 << (most.bit_length() - 1)
    for part in by_size(rows):
        at = 0
        while at < len(part):
            size = min(most, 1 << ((len(part) - at).bit_length() - 1))
            yield part[at : at + size]
            at += size


def by_size(rows: Sequence[Sequence[Value]]) -> Iterator[Sequence[Sequence[Value]]]:
    """Parts whose text and bytes fit into a packet."""
    start = size = 0
    for at, row in enumerate(rows):
        more = 16 * len(row) + sum(
            4 * len(v) if isinstance(v, str) else len(v) for v in row if isinstance(v, str | bytes)
        )
        if size + more > PACKET_BYTES_MAX and at > start:
            yield rows[start:at]
            start, size = at, 0
        size += more
    if start < len(rows):
        yield rows[start:] if start else rows
