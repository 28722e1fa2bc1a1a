"""What the 64 bits of an id mean: 42 bits of milliseconds since 2025, 8 bits of shard, 14 bits of sequence.

An id says when it was made and to which logical shard it belongs; where that shard lies today is the map's business.
Counted from 2025 an id stays below 2^63, and so fits a BIGINT, until September 2094; counted from 1970 it would turn
negative in 2039. On a wire an id is text: JSON numbers are doubles, which round it.

The shard stands in bits 14 to 21, not in the lowest: `id % 128` reads the *sequence*, and at less than one id per
millisecond that is always 0. Only an *aligned* id, made so that its sequence ends with the shard, has `id % 128 ==
shard` as well. A user's own id is made aligned, so that the published rule and the map agree.
"""

from __future__ import annotations

import datetime as dt

import msgspec

from dougong.errors import Invalid

__all__ = [
    "ALIGNMENT",
    "EPOCH_MS",
    "SEQUENCES",
    "SHARDS",
    "TIME_MS_END",
    "IdParts",
    "explain_id",
    "is_aligned",
    "pack_id",
    "parse_id",
    "shard_of",
    "unpack_id",
]

EPOCH_MS = 1_735_689_600_000
"""2025-01-01T00:00:00Z, in milliseconds since 1970."""
SHARD_BITS = 8
SEQUENCE_BITS = 14
TIME_SHIFT = SHARD_BITS + SEQUENCE_BITS
SHARDS = 1 << SHARD_BITS
SEQUENCES = 1 << SEQUENCE_BITS
TIME_MS_END = 1 << 41
"""Milliseconds after the epoch at which ids are used up: the 42nd bit is the sign of a BIGINT."""
ALIGNMENT = 128
"""An aligned id is its shard modulo this: the number of buckets, which never changes."""
_END = TIME_MS_END << TIME_SHIFT


class IdParts(msgspec.Struct, frozen=True):
    """An id, taken apart."""

    time_ms: int
    """When it was made, in milliseconds since 2025; by the minter's logical clock, which may lead by a moment."""
    shard: int
    """0 to 255."""
    sequence: int
    """Its number within the millisecond, 0 to 16,383."""

    @property
    def at_us(self) -> int:
        """When it was made: UTC, in microseconds since 1970."""
        return (EPOCH_MS + self.time_ms) * 1000


def pack_id(parts: IdParts) -> int:
    """The id of these parts. `Invalid` (`bad_id`) when one of them has no room."""
    if not (0 <= parts.time_ms < TIME_MS_END and 0 <= parts.shard < SHARDS and 0 <= parts.sequence < SEQUENCES):
        raise Invalid(
            f"no id holds {parts}: time_ms is below {TIME_MS_END}, shard below {SHARDS}, sequence below {SEQUENCES}",
            code="bad_id",
        )
    return parts.time_ms << TIME_SHIFT | parts.shard << SEQUENCE_BITS | parts.sequence


def unpack_id(number: int) -> IdParts:
    """The parts of an id. `Invalid` (`bad_id`) for a number that is none."""
    if not 0 <= number < _END:
        raise Invalid(f"{number} is no id: ids lie between 0 and 2^63", code="bad_id")
    return IdParts(number >> TIME_SHIFT, number >> SEQUENCE_BITS & SHARDS - 1, number & SEQUENCES - 1)


def shard_of(number: int) -> int:
    """The logical shard within an id."""
    return number >> SEQUENCE_BITS & SHARDS - 1


def is_aligned(number: int) -> bool:
    """Whether `id % 128` says the same as the shard within it. By chance one in 128 ordinary ids is so, too."""
    return number % ALIGNMENT == shard_of(number)


def parse_id(text: str) -> int:
    """An id as it came over a wire: decimal digits, and no others. `Invalid` (`bad_id`) otherwise."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 19 and str(int(text)) == text and int(text) < _END):
        raise Invalid(f"{text[:40]!r} is no id: an id is a whole number below 2^63, in decimal digits", code="bad_id")
    return int(text)


def explain_id(number: int) -> str:
    """An id in words, for people.

    >>> explain_id(33554432000 << 22 | 17 << 14 | 17)
    '140737488355606545: made 2026-01-24T08:40:32.000Z for shard 17, sequence 17; aligned (id % 128 = 17)'
    """
    parts = unpack_id(number)
    # Arithmetic, not fromtimestamp: that takes a float, which has no room for microseconds in 2094.
    at = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=EPOCH_MS + parts.time_ms)
    made = at.replace(tzinfo=None).isoformat(timespec="milliseconds")
    aligned = "aligned" if is_aligned(number) else "not aligned"
    return (
        f"{number}: made {made}Z for shard {parts.shard}, sequence {parts.sequence}; "
        f"{aligned} (id % {ALIGNMENT} = {number % ALIGNMENT})"
    )
