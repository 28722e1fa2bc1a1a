"""The minter: which ids may be made now. No clock, no database: the time is told, and so is what a lease allows.

All the state there is, is one number: the next *position*, milliseconds and sequence joined. It only rises, so no id
comes twice. Everything else is a bound on it:

- It is never behind the clock: `max(now, last)`. When a millisecond is full, or the clock was set back a little, the
  position leads the clock, by `lead_ms_max` at most. Beyond that the caller waits (`Overloaded`), and where the wait
  would be longer than `wait_ms_max` the clock is wrong (`ClockMovedBack`). A clock set back to a time at which nothing
  was minted harms nobody, and is not noticed.
- It is never ahead of the *mark*, a time that was made durable beforehand. Whoever has the shard next begins at the
  mark, so the two share no position, whatever their clocks say.
- Nothing is minted after the lease has ended by the monotonic clock, which nobody can set.

A refusal changes nothing: every check comes before the one assignment.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import msgspec

from dougong.errors import Error, Internal, Invalid, Overloaded, Unavailable
from dougong.shard.ids import ALIGNMENT, EPOCH_MS, SEQUENCE_BITS, SEQUENCES, SHARDS, TIME_MS_END, TIME_SHIFT

__all__ = ["ClockMovedBack", "MarkReached", "Minter", "Run"]


class ClockMovedBack(Unavailable):
    """This machine's clock is behind ids that were minted already, by more than can be waited for.

    Nothing was minted and nothing changed. Use another shard, or set the clock right; it also goes away by itself when
    the clock gets there (`retry_after_s`).
    """


class MarkReached(Unavailable):
    """The clock went past the durable mark; minting goes on when that is moved, which the next renewal does."""


class Run(msgspec.Struct, frozen=True):
    """Ids that were minted together, as cheap as one: `len(run)`, `list(run)`, `run.ranges()`."""

    shard: int
    first: int
    """The position of the first: milliseconds since 2025 · 2^14 + sequence."""
    count: int
    step: int
    """1, or 128 where they are aligned."""

    def ranges(self) -> Iterator[range]:
        """The ids as ranges, rising, one for each millisecond."""
        position, left, step = self.first, self.count, self.step
        while left:
            sequence = position % SEQUENCES
            size = min(left, (SEQUENCES - 1 - sequence) // step + 1)
            start = position >> SEQUENCE_BITS << TIME_SHIFT | self.shard << SEQUENCE_BITS | sequence
            yield range(start, start + (size - 1) * step + 1, step)
            position += size * step  # a step divides a millisecond, so this is the first of the next one
            left -= size

    def __iter__(self) -> Iterator[int]:
        return itertools.chain.from_iterable(self.ranges())

    def __len__(self) -> int:
        return self.count


class Minter:
    """Makes the ids of one shard for whoever was granted it.

    `now_us` is UTC in microseconds, `monotonic` seconds of a clock that nobody sets; both belong to one machine.
    """

    def __init__(self, shard: int, *, lead_ms_max: int = 100, wait_ms_max: int = 1000) -> None:
        if not 0 <= shard < SHARDS:
            raise Invalid(f"there is no shard {shard}; shards are 0 to {SHARDS - 1}", code="unknown_shard", shard=shard)
        self.shard = shard
        self.minted = 0
        """How many so far."""
        self._lead_ms_max = lead_ms_max
        self._wait_ms_max = wait_ms_max
        self._next = 0
        self._end = 0
        self.ends_at = -math.inf
        """When the lease ends, by the monotonic clock."""

    @property
    def next_ms(self) -> int:
        """The first millisecond since 2025 of which nothing was minted: what the mark may be when this one retires."""
        return -(-self._next // SEQUENCES)

    def grant(self, from_ms: int, mark_ms: int, ends_at: float) -> None:
        """The shard is ours: from the mark that was found to the one that is durable now, until `ends_at`."""
        self._next = max(self._next, from_ms << SEQUENCE_BITS)
        self.extend(mark_ms, ends_at)

    def extend(self, mark_ms: int, ends_at: float) -> None:
        """The lease was renewed, and with it the mark moved."""
        self._end = max(self._end, min(mark_ms, TIME_MS_END) << SEQUENCE_BITS)
        self.ends_at = ends_at

    def revoke(self) -> None:
        """The shard is no longer ours."""
        self._end = 0
        self.ends_at = -math.inf

    def count_max(self, *, aligned: bool = False) -> int:
        """As many can be taken at once."""
        return self._lead_ms_max * SEQUENCES // (ALIGNMENT if aligned else 1)

    def one(self, now_us: int, monotonic: float, *, aligned: bool = False) -> int:
        """One id; raises as `take` does."""
        now_ms = now_us // 1000 - EPOCH_MS
        position = now_ms << SEQUENCE_BITS
        if position < self._next:  # noqa: PLR1730 (max() costs a tenth of the whole)
            position = self._next
        if aligned:
            position = self._aligned(position)
        at_ms = position >> SEQUENCE_BITS
        if monotonic >= self.ends_at or position >= self._end or at_ms - now_ms > self._lead_ms_max:
            raise self._refusal(position, position, now_ms, monotonic)
        self._next = position + 1
        self.minted += 1
        return at_ms << TIME_SHIFT | self.shard << SEQUENCE_BITS | position & SEQUENCES - 1

    def take(self, count: int, now_us: int, monotonic: float, *, aligned: bool = False) -> Run:
        """`count` ids at once.

        Raises `Unavailable` (`no_lease`) without a lease, `Overloaded` (`ids_ahead`) when the position would lead the
        clock too far and a wait of `retry_after_s` helps, `ClockMovedBack`, and `MarkReached`.
        """
        if not 1 <= count <= self.count_max(aligned=aligned):
            raise Invalid(
                f"{count} ids cannot be taken at once: 1 to {self.count_max(aligned=aligned):,}",
                code="bad_count",
                count=count,
            )
        now_ms = now_us // 1000 - EPOCH_MS
        first = max(self._next, now_ms << SEQUENCE_BITS)
        if aligned:
            first = self._aligned(first)
        step = ALIGNMENT if aligned else 1
        last = first + (count - 1) * step
        lead_ms = (last >> SEQUENCE_BITS) - now_ms
        if monotonic >= self.ends_at or last >= self._end or lead_ms > self._lead_ms_max:
            raise self._refusal(first, last, now_ms, monotonic)
        self._next = last + 1
        self.minted += count
        return Run(self.shard, first, count, step)

    def _aligned(self, position: int) -> int:
        """The first position from here on whose id ends with the shard."""
        if self.shard >= ALIGNMENT:
            raise Invalid(
                f"no id of shard {self.shard} is aligned: {ALIGNMENT} and above do not fit below {ALIGNMENT}",
                code="not_alignable",
                shard=self.shard,
            )
        return position + (self.shard - position) % ALIGNMENT

    def _refusal(self, first: int, last: int, now_ms: int, monotonic: float) -> Error:
        """Why not. Looks, and touches nothing."""
        if monotonic >= self.ends_at:
            return Unavailable(
                f"there is no lease on shard {self.shard}: another process has it, or the database that holds the "
                "lease cannot be reached",
                code="no_lease",
                retry_after_s=1.0,
                shard=self.shard,
            )
        behind_ms = (first >> SEQUENCE_BITS) - now_ms - self._lead_ms_max
        if behind_ms > self._wait_ms_max:
            return ClockMovedBack(
                f"the clock is {behind_ms / 1000:,.3f} s behind ids that shard {self.shard} minted already; set it "
                "right, wait, or use another shard",
                code="clock_moved_back",
                retry_after_s=behind_ms / 1000,
                shard=self.shard,
                behind_ms=behind_ms,
            )
        ahead_ms = (last >> SEQUENCE_BITS) - now_ms - self._lead_ms_max
        if ahead_ms > 0:
            return Overloaded(
                f"the ids of shard {self.shard} are ahead of the clock by all they may be",
                code="ids_ahead",
                retry_after_s=ahead_ms / 1000,
                shard=self.shard,
            )
        if last >> SEQUENCE_BITS >= TIME_MS_END:
            return Internal("ids are used up in September 2094: the clock is wrong, or it is late", code="ids_used_up")
        return MarkReached(
            f"the clock went past what shard {self.shard} has made durable; the next renewal helps",
            code="mark_reached",
            retry_after_s=0.1,
            shard=self.shard,
        )
