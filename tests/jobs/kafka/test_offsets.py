"""Offsets that settle in any order, against a model that remembers everything."""

from __future__ import annotations

import base64
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dougong.jobs.kafka.offsets import METADATA_BYTES_MAX, SPAN_MAX, Offsets, read_map


class Model(RuleBasedStateMachine):
    """A log with holes, read by owners that come and go; each settles in any order and commits when it likes."""

    with_map = True

    @initialize(log=st.sets(st.integers(0, 60), min_size=1), start=st.integers(0, 3))
    def begin(self, log: set[int], start: int) -> None:
        self.log = sorted(offset + start for offset in log)
        self.end = self.log[-1] + 1
        self.committed: tuple[int, str] = (start, "")
        self.settled_at_commit: set[int] = set()
        self.settled: set[int] = set()
        self.take_over()

    def take_over(self) -> None:
        low, metadata = self.committed
        self.offsets = Offsets(low, read_map(metadata, low, self.end) if self.with_map else ())
        self.settled = set(self.settled_at_commit)
        self.unread = [offset for offset in self.log if offset >= low]
        self.held: list[int] = []
        self.came_again: list[int] = []

    @precondition(lambda self: self.unread)
    @rule()
    def read(self) -> None:
        offset = self.unread.pop(0)
        if self.offsets.read(offset):
            self.held.append(offset)
            assert offset not in self.settled, "what was settled at the last commit came again"
        else:
            assert offset in self.settled, "what was not settled was passed over"

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 1000))
    def settle(self, which: int) -> None:
        offset = self.held.pop(which % len(self.held))
        self.offsets.settle(offset)
        self.settled.add(offset)

    @rule()
    def commit(self) -> None:
        self.committed = self.offsets.commit()
        self.settled_at_commit = set(self.settled)
        assert len(self.committed[1]) <= METADATA_BYTES_MAX

    @rule()
    def rebalance(self) -> None:
        self.take_over()

    @invariant()
    def nothing_unsettled_is_below_or_believed_settled(self) -> None:
        if hasattr(self, "offsets"):
            for offset in self.log:
                if offset not in self.settled:
                    assert offset >= self.offsets.low
                    assert not self.offsets.settled(offset)


TestModel = Model.TestCase


def test_without_the_map_what_was_finished_comes_again() -> None:
    """The ablation: same log, same order, the map thrown away by who takes over."""

    def again(with_map: bool) -> list[int]:
        before = Offsets(0)
        for offset in range(10):
            assert before.read(offset)
        for offset in (1, 2, 5, 9):
            before.settle(offset)
        low, metadata = before.commit()
        after = Offsets(low, read_map(metadata, low, 10) if with_map else ())
        return [offset for offset in range(low, 10) if after.read(offset)]

    assert again(with_map=True) == [0, 3, 4, 6, 7, 8]
    assert again(with_map=False) == list(range(10))


@given(st.integers(0, 2**40), st.sets(st.integers(0, SPAN_MAX - 1)), st.randoms())
def test_a_full_span_always_fits(start: int, some: set[int], random: object) -> None:
    offsets = Offsets(start)
    for offset in range(start, start + SPAN_MAX):
        assert not offsets.full
        offsets.read(offset)
    assert offsets.full
    noise = int.from_bytes(random.randbytes(SPAN_MAX // 8 + 1), "little")  # type: ignore[attr-defined]
    expected = {start + bit for bit in range(1, SPAN_MAX) if noise >> bit & 1} | {start + each for each in some if each}
    for offset in expected:
        offsets.settle(offset)
    low, metadata = offsets.commit()
    assert (low, len(metadata) <= METADATA_BYTES_MAX) == (start, True)
    assert read_map(metadata, low, start + SPAN_MAX) == expected


def test_what_has_no_room_in_the_map_comes_again_and_is_not_lost() -> None:
    offsets = Offsets(0)
    for offset in range(50_000):
        offsets.read(offset)
    for offset in range(1, 50_000):
        offsets.settle(offset)
    low, metadata = offsets.commit()
    kept = read_map(metadata, low, 50_000)
    assert low == 0
    assert kept == set(range(1, len(kept) + 1))
    assert SPAN_MAX < len(kept) < 50_000


def _map() -> str:
    offsets = Offsets(7)
    for offset in range(7, 20):
        offsets.read(offset)
    offsets.settle(15)
    return offsets.commit()[1]


@pytest.mark.parametrize(
    ("metadata", "low", "end", "why"),
    [
        ("anything", 7, 20, "not in a form"),
        ("d1:***", 7, 20, "cannot be read"),
        ("d1:" + "A" * 5000, 7, 20, "not in a form"),
        (_map(), 8, 20, "not of offset 8"),
        (_map()[:-4] + "AAAA", 7, 20, r"cannot be read|not of offset"),
        (_map(), 7, 15, "the log ends before 15"),
        ("d1:" + base64.b64encode(bytes(4) + zlib.compress(bytes(1 << 20))).decode(), 7, 1 << 30, "not of offset"),
    ],
)
def test_a_map_that_is_not_of_this_log_is_refused(metadata: str, low: int, end: int, why: str) -> None:
    assert read_map(_map(), 7, 20) == {15}
    with pytest.raises(ValueError, match=why):
        read_map(metadata, low, end)


@pytest.mark.fuzz
@given(st.text(max_size=200).map(lambda text: "d1:" + text) | st.text(max_size=200), st.integers(0, 2**62))
def test_no_metadata_does_harm(metadata: str, low: int) -> None:
    try:
        assert read_map(metadata, low, 2**63) == frozenset() or metadata.startswith("d1:")
    except ValueError:
        pass
