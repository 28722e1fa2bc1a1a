"""What waits for a slow reader: in order, within bounds, and what gives way is what the topic said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.gateway.outbox import Outbox, Slow, Verdict


def waiting(outbox: Outbox) -> list[bytes]:
    return [bytes(part) for part in outbox.head()]


def test_frames_are_written_in_order_however_much_the_kernel_takes() -> None:
    outbox = Outbox(5)
    outbox.put(b"abcd", None, Slow.CLOSE, 100, written=1)
    outbox.put(b"ef", None, Slow.CLOSE, 100)
    assert waiting(outbox) == [b"bcd", b"ef"]
    assert not outbox.wrote(4, 6)
    assert (waiting(outbox), outbox.size, outbox.since) == ([b"f"], 2, 6)
    assert not outbox.wrote(0, 7)
    assert outbox.since == 6  # it read nothing
    assert outbox.wrote(1, 8)
    assert (len(outbox), outbox.size) == (0, 0)


def filled(slow: Slow) -> tuple[Outbox, Verdict]:
    outbox = Outbox(0)
    outbox.put(b"x1", "x", Slow.DROP_OLDEST, 8, written=1)
    outbox.put(b"x2", "x", Slow.DROP_OLDEST, 8)
    outbox.put(b"o1", "other", Slow.DROP_OLDEST, 8)
    outbox.put(b"x3", "x", Slow.DROP_OLDEST, 8)
    return outbox, outbox.put(b"x4", "x", slow, 8)


@pytest.mark.parametrize(
    ("slow", "verdict", "left"),
    [
        (Slow.CLOSE, Verdict.CLOSE, [b"1", b"x2", b"o1", b"x3"]),
        (Slow.DROP_OLDEST, Verdict.DROPPED, [b"1", b"o1", b"x3", b"x4"]),  # the one that was begun stays
        (Slow.LATEST, Verdict.DROPPED, [b"1", b"o1", b"x4"]),
        (Slow.RESUME, Verdict.RESUME, [b"1", b"o1"]),
    ],
)
def test_what_gives_way(slow: Slow, verdict: Verdict, left: list[bytes]) -> None:
    outbox, said = filled(slow)
    assert said is verdict
    assert waiting(outbox) == left


def test_latest_replaces_before_there_is_too_much() -> None:
    outbox = Outbox(0)
    for value in (b"1", b"2", b"3"):
        outbox.put(value, "price", Slow.LATEST, 1000)
    assert waiting(outbox) == [b"3"]
    assert outbox.dropped == 2


def test_nobody_pays_for_another_topic() -> None:
    outbox = Outbox(0)
    outbox.put(b"oooo", "other", Slow.CLOSE, 4)
    assert outbox.put(b"x", "x", Slow.DROP_OLDEST, 4) is Verdict.DROPPED
    assert outbox.put(b"x", "x", Slow.LATEST, 4) is Verdict.RESUME  # or he would take the value before it for the last
    assert waiting(outbox) == [b"oooo"]
    assert outbox.put(b"answer", None, Slow.DROP_OLDEST, 4) is Verdict.CLOSE


PUTS = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 9), st.sampled_from(["a", "b", None]), st.sampled_from(list(Slow))),
        st.integers(0, 12),
    ),
    max_size=40,
)


@given(PUTS)
def test_bounds_and_order_hold_whatever_happens(steps: list[tuple[int, str | None, Slow] | int]) -> None:
    outbox, written, sizes = Outbox(0), b"", dict[int, int]()
    for number, step in enumerate(steps):
        if isinstance(step, int):
            there = b"".join(waiting(outbox))
            taken = min(step, len(there))
            written += there[:taken]
            assert outbox.wrote(taken, 0) is (taken == len(there))
        else:
            sizes[number] = step[0]
            outbox.put(bytes([number]) * step[0], step[1], step[2], 20)
        assert outbox.size <= 20
        assert sum(len(part) for part in outbox.head()) <= outbox.size
    sent = written + b"".join(waiting(outbox))
    order = [number for number in sizes if number in sent]
    assert sent == b"".join(bytes([number]) * sizes[number] for number in order)  # whole frames, in order, once
