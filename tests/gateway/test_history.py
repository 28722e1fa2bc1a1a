"""History: a client that comes back misses nothing, or is told that it does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dougong.gateway.history import History, HistoryPolicy, Missed, Offset


def test_what_came_after_an_offset() -> None:
    history = History(HistoryPolicy())
    start = history.position("a")
    assert history.since("a", start, 0.0) == Missed([], start, complete=True)
    offsets = [history.add("a", data, 1.0) for data in (b"1", b"2", b"3")]
    assert history.since("a", start, 1.0).messages == [(1, b"1"), (2, b"2"), (3, b"3")]
    missed = history.since("a", offsets[0], 2.0)
    assert missed == Missed([(2, b"2"), (3, b"3")], offsets[2], complete=True)


def test_what_is_gone_is_said_to_be_gone() -> None:
    history = History(HistoryPolicy(messages_max=2, age_s=10.0))
    first, *_ = [history.add("a", data, 0.0) for data in (b"1", b"2", b"3", b"4")]
    missed = history.since("a", first, 0.0)
    assert (missed.messages, missed.complete) == ([(3, b"3"), (4, b"4")], False)
    assert history.since("a", Offset(first.epoch, 2), 0.0).complete
    assert history.since("a", Offset(first.epoch, 4), 11.0).complete
    assert not history.since("a", Offset(first.epoch, 2), 11.0).complete
    assert history.bytes == 0


def test_another_life_counts_anew() -> None:
    old, new = History(HistoryPolicy(), random=lambda: 0.1), History(HistoryPolicy(), random=lambda: 0.2)
    was = [old.add("a", b"x", 0.0) for _ in range(3)][-1]
    for _ in range(5):
        new.add("a", b"y", 0.0)
    missed = new.since("a", was, 0.0)
    assert (missed.messages, missed.complete) == ([], False)
    assert not new.since("a", Offset(missed.now.epoch, 9), 0.0).complete  # from the future


def test_a_topic_that_was_forgotten_is_another_one() -> None:
    history = History(HistoryPolicy(topics_max=2))
    nothing = history.position("c")
    was = history.add("a", b"1", 0.0)
    for topic in ("b", "c", "a", "a"):
        history.add(topic, b"2", 0.0)
    assert len(history) == 2
    assert not history.since("a", was, 0.0).complete
    assert history.since("c", nothing, 0.0).complete  # nothing was forgotten before it began
    assert not history.since("d", nothing, 0.0).complete  # it may have been there, and gone
    assert history.bytes == 3


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3)), max_size=60),
    st.integers(1, 5),
    st.integers(1, 2),
    st.data(),
)
def test_complete_is_never_said_wrongly(
    steps: list[tuple[str, int]], messages_max: int, topics_max: int, data: st.DataObject
) -> None:
    """A client of topic a follows now and then; what it got and what it was told it lost is all there was."""
    history = History(HistoryPolicy(messages_max=messages_max, age_s=5.0, topics_max=topics_max))
    published, got, lost, now = 0, list[int](), False, 0.0
    place = history.position("a")
    for topic, wait in steps:
        now += wait
        if topic == "a":
            published += 1
            history.add("a", b"%d" % published, now)
        else:
            history.add(data.draw(st.sampled_from("bcd")), b"other", now)
        if data.draw(st.booleans()):
            missed = history.since("a", place, now)
            got += [int(text) for _, text in missed.messages]
            if not missed.complete:
                lost = True
            place = missed.now
            if not lost:
                assert got == list(range(1, published + 1))
            assert got == sorted(set(got))
