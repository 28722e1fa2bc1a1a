"""The minter core: every rule in every order, and each rule is missed when it is gone."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dougong.errors import Error, Internal, Invalid, Overloaded, Unavailable
from dougong.shard import ClockMovedBack, MarkReached, Run, is_aligned, shard_of, unpack_id
from dougong.shard.ids import EPOCH_MS, TIME_MS_END
from dougong.shard.minting import Minter

NOW_MS = 60_000_000_000


def us(ms: float) -> int:
    """A clock that shows `ms` milliseconds since 2025."""
    return int((EPOCH_MS + ms) * 1000)


def granted(shard: int = 5, *, mark_ms: int = NOW_MS + 10_000) -> Minter:
    minter = Minter(shard)
    minter.grant(NOW_MS - 1000, mark_ms, ends_at=100.0)
    return minter


def state(minter: Minter) -> dict[str, object]:
    return dict(vars(minter))


def test_ids_carry_time_shard_and_a_number_that_begins_anew() -> None:
    minter = granted()
    got = [minter.one(us(NOW_MS + 0.5), 0.0), minter.one(us(NOW_MS + 0.9), 0.0), minter.one(us(NOW_MS + 3), 0.0)]
    assert [(p.time_ms - NOW_MS, p.shard, p.sequence) for p in map(unpack_id, got)] == [(0, 5, 0), (0, 5, 1), (3, 5, 0)]


def test_a_full_millisecond_leads_the_clock_and_never_wraps() -> None:
    minter = granted()
    run = minter.take(40_000, us(NOW_MS), 0.0)
    assert [len(r) for r in run.ranges()] == [16_384, 16_384, 7_232]
    ids = list(run)
    assert len(ids) == len(run) == len(set(ids)) == 40_000
    assert ids == sorted(ids)
    assert unpack_id(minter.one(us(NOW_MS), 0.0)).time_ms == NOW_MS + 2


def test_beyond_the_lead_the_caller_waits_for_as_long_as_it_is_told() -> None:
    minter = granted()
    minter.take(100 * 16_384, us(NOW_MS), 0.0)
    minter.take(16_384, us(NOW_MS), 0.0)  # the millisecond at the end of the lead
    before = state(minter)
    with pytest.raises(Overloaded) as caught:
        minter.one(us(NOW_MS), 0.0)
    assert (caught.value.code, caught.value.retry_after_s) == ("ids_ahead", 0.001)
    assert state(minter) == before
    assert unpack_id(minter.one(us(NOW_MS + 1), 0.0)).time_ms == NOW_MS + 101


@pytest.mark.parametrize(
    ("back_ms", "refusal"), [(50, None), (100, None), (101, Overloaded), (1100, Overloaded), (1101, ClockMovedBack)]
)
def test_a_clock_that_is_set_back(back_ms: int, refusal: type[Error] | None) -> None:
    minter = granted()
    first = minter.one(us(NOW_MS), 0.0)
    before = state(minter)
    if refusal is None:
        assert minter.one(us(NOW_MS - back_ms), 0.0) == first + 1
        return
    for call in (minter.one, lambda now_us, at: minter.take(10, now_us, at)):
        with pytest.raises(refusal):
            call(us(NOW_MS - back_ms), 0.0)
    assert state(minter) == before, "a refusal changes nothing"
    assert minter.one(us(NOW_MS), 0.0) == first + 1


def test_a_clock_set_back_to_where_nothing_was_minted_harms_nobody() -> None:
    minter = granted()
    minter.one(us(NOW_MS), 0.0)
    assert unpack_id(minter.one(us(NOW_MS + 5000), 0.0)).time_ms == NOW_MS + 5000
    assert unpack_id(minter.one(us(NOW_MS + 5001), 0.0)).time_ms == NOW_MS + 5001


def test_a_clock_before_2025_or_after_2094() -> None:
    minter = Minter(5)
    minter.grant(0, 10_000, ends_at=100.0)
    with pytest.raises(ClockMovedBack):
        minter.one(0, 0.0)
    minter.extend(TIME_MS_END + 10**9, ends_at=100.0)
    minter.one(us(TIME_MS_END - 1), 0.0)
    with pytest.raises(Internal) as caught:
        minter.one(us(TIME_MS_END), 0.0)
    assert caught.value.code == "ids_used_up"


def test_nothing_beyond_the_mark() -> None:
    minter = granted(mark_ms=NOW_MS + 10)
    minter.one(us(NOW_MS + 9), 0.0)
    before = state(minter)
    with pytest.raises(MarkReached):
        minter.one(us(NOW_MS + 10), 0.0)
    with pytest.raises(MarkReached):
        minter.take(20_000, us(NOW_MS + 9), 0.0)  # its end would be
    assert state(minter) == before
    minter.extend(NOW_MS + 20, ends_at=100.0)
    assert unpack_id(minter.one(us(NOW_MS + 10), 0.0)).time_ms == NOW_MS + 10


def test_nothing_before_the_mark_that_was_found() -> None:
    minter = Minter(5)
    minter.grant(NOW_MS + 50, NOW_MS + 10_000, ends_at=100.0)
    assert unpack_id(minter.one(us(NOW_MS), 0.0)).time_ms == NOW_MS + 50


def test_nothing_after_the_lease() -> None:
    minter = granted()
    minter.one(us(NOW_MS), 99.9)
    for at in (100.0, 100.1):
        with pytest.raises(Unavailable) as caught:
            minter.one(us(NOW_MS), at)
        assert caught.value.code == "no_lease"
    minter.extend(NOW_MS + 20_000, ends_at=200.0)
    minter.one(us(NOW_MS), 100.1)
    minter.revoke()
    with pytest.raises(Unavailable):
        minter.take(1, us(NOW_MS), 100.2)


def test_aligned_ids_are_their_bucket_modulo_128_and_share_the_numbers_with_others() -> None:
    minter = granted(shard=127)
    seen = [minter.one(us(NOW_MS), 0.0, aligned=n % 3 == 0) for n in range(300)]
    assert all(number % 128 == 127 == shard_of(number) for number in seen[::3])
    run = minter.take(300, us(NOW_MS), 0.0, aligned=True)
    assert all(number % 128 == 127 and is_aligned(number) for number in run)
    seen += [*run, minter.one(us(NOW_MS), 0.0)]
    assert seen == sorted(set(seen))


def test_what_cannot_be_taken() -> None:
    for shard in (-1, 256):
        with pytest.raises(Invalid):
            Minter(shard)
    minter = granted()
    for count in (-1, 0, 1_638_401):
        with pytest.raises(Invalid):
            minter.take(count, us(NOW_MS), 0.0)
    with pytest.raises(Invalid):
        minter.take(12_801, us(NOW_MS), 0.0, aligned=True)
    with pytest.raises(Invalid) as caught:
        granted(shard=128).one(us(NOW_MS), 0.0, aligned=True)
    assert caught.value.code == "not_alignable"


@given(st.integers(0, 255), st.integers(0, 1 << 30), st.integers(1, 70_000), st.booleans())
def test_a_run_is_its_ranges(shard: int, first: int, count: int, aligned: bool) -> None:
    step = 128 if aligned else 1
    run = Run(shard, first, count, step)
    ranges = list(run.ranges())
    assert sum(map(len, ranges)) == count
    for before, after in itertools.pairwise(ranges):
        assert before[-1] < after[0]
        assert unpack_id(before[-1]).time_ms + 1 == unpack_id(after[0]).time_ms
    for some in ranges:
        assert unpack_id(some[0]).time_ms == unpack_id(some[-1]).time_ms
        assert shard_of(some[0]) == shard_of(some[-1]) == shard
        assert some.step == step


class Minting(RuleBasedStateMachine):
    """One shard: holders one after the other, each with what the last one made durable; clocks do what they like."""

    minter: Minter

    @initialize(shard=st.integers(0, 127))
    def begin(self, shard: int) -> None:
        self.shard = shard
        self.mark_ms = 0
        self.now_ms = NOW_MS
        self.monotonic = 0.0
        self.last = -1
        self.take_over()

    @rule()
    def take_over(self) -> None:
        """A restart, or another minter: it knows nothing but the mark."""
        self.minter = Minter(self.shard)
        found, self.mark_ms = self.mark_ms, max(self.mark_ms, self.now_ms + 3000)
        self.ends_at = self.monotonic + 3.0
        self.minter.grant(found, self.mark_ms, self.ends_at)

    @rule()
    def renew(self) -> None:
        self.mark_ms = max(self.mark_ms, self.now_ms + 3000)
        self.ends_at = self.monotonic + 3.0
        self.minter.extend(self.mark_ms, self.ends_at)

    @rule()
    def retire(self) -> None:
        self.minter.revoke()
        self.mark_ms = self.minter.next_ms
        self.take_over()

    @rule(ms=st.integers(0, 5000))
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms
        self.monotonic += ms / 1000

    @rule(ms=st.integers(-10_000, 10_000))
    def somebody_sets_the_clock(self, ms: int) -> None:
        self.now_ms += ms

    @rule(count=st.one_of(st.just(1), st.integers(1, 200_000)), aligned=st.booleans())
    def mint(self, count: int, aligned: bool) -> None:
        count = min(count, self.minter.count_max(aligned=aligned))
        before = state(self.minter)
        try:
            if count == 1:
                first = last = self.minter.one(us(self.now_ms), self.monotonic, aligned=aligned)
            else:
                ranges = list(self.minter.take(count, us(self.now_ms), self.monotonic, aligned=aligned).ranges())
                assert sum(map(len, ranges)) == count
                first, last = ranges[0][0], ranges[-1][-1]
        except Error:
            assert state(self.minter) == before
            return
        assert first > self.last, "ids of a shard rise, across all its holders"
        self.last = last
        assert self.monotonic < self.ends_at
        assert self.now_ms <= unpack_id(first).time_ms <= unpack_id(last).time_ms <= self.now_ms + 100
        assert unpack_id(last).time_ms < self.mark_ms
        assert shard_of(first) == shard_of(last) == self.shard
        if aligned:
            assert first % 128 == last % 128 == self.shard

    @invariant()
    def marks_are_ahead(self) -> None:
        assert self.last < 0 or unpack_id(self.last).time_ms < self.mark_ms


TestMinting = Minting.TestCase
TestMinting.settings = settings(deadline=None, stateful_step_count=60)
