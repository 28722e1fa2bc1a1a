"""The hub without sockets: who gets what, and that the next hub goes on where the last one was killed."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.errors import Invalid
from dougong.gateway.fanout import Published
from dougong.gateway.fanout.hub import Switch
from dougong.gateway.fanout.journal import Journal
from dougong.gateway.fanout.wire import (
    FRAME_BYTES_MAX,
    Acked,
    Answered,
    Frames,
    FromHub,
    Join,
    Joined,
    Leave,
    Part,
    Ping,
    Publish,
    Since,
    ToHub,
    Writer,
    from_hub,
)
from dougong.gateway.history import HistoryPolicy, Offset
from dougong.gateway.outbox import Slow


class Process:
    def __init__(self) -> None:
        self.topics: str | set[str] | None = None
        self.told: list[FromHub] = []

    def say(self, record: FromHub, size: int = 0) -> None:
        self.told.append(record)

    def take(self) -> list[FromHub]:
        told, self.told = self.told, []
        return told


class Life:
    """A hub; `killed` leaves the file as it is, and what was not flushed is gone."""

    def __init__(self, path: Path, policy: HistoryPolicy, boot: str = "1") -> None:
        self.journal = Journal(path, policy, random=random.random, boot=lambda: boot, room_bytes=200)
        self.switch = Switch(self.journal.history, self.journal.add)

    def ask(self, process: Process, record: ToHub, now: float) -> list[FromHub]:
        self.switch.hear(process, record, now)
        self.journal.flush()
        return process.take()


def publish(topic: str, data: bytes, *, keep: bool = True) -> Publish:
    return Publish(topic, data, Slow.RESUME, keep)


def test_who_gets_what(tmp_path: Path) -> None:
    life, one, two = Life(tmp_path / "history", HistoryPolicy()), Process(), Process()
    (start,) = life.ask(one, Join("a"), 0.0)
    assert isinstance(start, Joined)
    (acked,) = life.ask(two, publish("a", b"1"), 0.0)
    assert acked == Acked(Offset(start.now.epoch, 1))
    assert one.take() == [Published("a", b"1", Offset(start.now.epoch, 1), Slow.RESUME)]
    assert life.ask(two, publish("a", b"2", keep=False), 0.0) == [Acked(None)]
    assert one.take() == [Published("a", b"2", None, Slow.RESUME)]
    assert life.ask(two, Since("a", start.now), 0.0) == [
        Part(1, b"1"),
        Answered(Offset(start.now.epoch, 1), complete=True),
    ]
    assert life.ask(two, Ping(), 0.0) == [Acked(None)]
    life.ask(one, Leave("a"), 0.0)
    life.switch.gone(one)
    life.ask(two, publish("a", b"3"), 0.0)
    assert one.take() == []
    again = life.ask(one, Join("a", start.now), 0.0)
    assert [record.data for record in again if isinstance(record, Published)] == [b"1", b"3"]
    assert again[-1] == Joined("a", Offset(start.now.epoch, 2), complete=True)
    assert life.ask(one, Join("a", Offset("x", 1)), 0.0) == [Joined("a", Offset(start.now.epoch, 2), complete=False)]


def follow(steps: list[tuple[str, int]], policy: HistoryPolicy, kind: type[Life]) -> list[str]:
    """A client of topic a follows through the lives of hubs; what is wrong with what it was told."""
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        path, process, now = Path(folder) / "history", Process(), 0.0
        life = kind(path, policy)
        (joined,) = life.ask(process, Join("a"), now)
        assert isinstance(joined, Joined)
        place, published, got = joined.now, list[bytes](), 0
        for what, wait in steps:
            now += wait
            if what == "kill":
                life = kind(path, policy)
            elif what == "follow":
                *parts, answered = life.ask(Process(), Since("a", place), now)
                assert isinstance(answered, Answered)
                data = [part.data for part in parts if isinstance(part, Part)]
                if answered.complete and data != published[got:]:
                    wrong.append(f"{data} for {published[got:]}")
                place, got = answered.now, len(published)
            else:
                message = b"%d" % len(published)
                life.ask(Process(), publish(what, message), now)
                if what == "a":
                    published.append(message)
    return wrong


STEPS = st.lists(
    st.tuples(st.sampled_from(["a", "a", "a", "b", "c", "d", "kill", "follow", "follow"]), st.integers(0, 3)),
    max_size=50,
)


@given(STEPS, st.integers(1, 5), st.integers(1, 3), st.sampled_from([3, 1000]))
def test_complete_is_never_said_wrongly_whenever_hubs_are_killed(
    steps: list[tuple[str, int]], messages_max: int, topics_max: int, bytes_max: int
) -> None:
    policy = HistoryPolicy(messages_max=messages_max, topics_max=topics_max, bytes_max=bytes_max, age_s=6.0)
    assert follow(steps, policy, Life) == []


class Hasty(Life):
    """Tells before it writes down."""

    def ask(self, process: Process, record: ToHub, now: float) -> list[FromHub]:
        self.switch.hear(process, record, now)
        return process.take()


def test_a_hub_that_told_before_it_wrote_would_say_it_wrongly() -> None:
    steps = [("a", 0), ("kill", 0), ("follow", 0)]
    assert follow(steps, HistoryPolicy(), Life) == []
    with pytest.MonkeyPatch.context() as patch:  # and the next one takes the life that was written down for its own
        patch.setattr(random, "random", lambda: 0.5)
        assert follow([("a", 0), ("follow", 0), ("kill", 0), ("a", 0), ("follow", 0)], HistoryPolicy(), Hasty) != []


def test_what_is_missed_by_nobody_goes_on_after_a_kill(tmp_path: Path) -> None:
    """Not only never wrong: complete indeed."""
    path, process = tmp_path / "history", Process()
    life = Life(path, HistoryPolicy())
    (joined,) = life.ask(process, Join("a"), 0.0)
    (silent,) = life.ask(process, Join("silent"), 0.0)
    assert isinstance(joined, Joined)
    assert isinstance(silent, Joined)
    for number in range(100):  # the file is written anew meanwhile
        life.ask(process, publish("a", b"%d" % number), 0.0)
        life = Life(path, HistoryPolicy())
    with path.open("ab") as file:
        file.write(b"\0\0\1\0half a frame, told to nobody")
    life = Life(path, HistoryPolicy())
    *parts, answered = life.ask(Process(), Since("a", joined.now), 0.0)
    assert [part.number for part in parts if isinstance(part, Part)] == list(range(1, 101))
    assert isinstance(answered, Answered)
    assert answered.complete
    assert life.ask(Process(), Since("silent", silent.now), 0.0) == [Answered(silent.now, complete=True)]
    assert path.stat().st_size < 10_000


def test_of_another_start_of_the_machine_or_unreadable_is_put_away(tmp_path: Path) -> None:
    path = tmp_path / "history"
    for spoil in (lambda: None, lambda: path.write_bytes(b"\0\0\0\3abcdefg"), lambda: path.write_bytes(b"\xff" * 99)):
        life = Life(path, HistoryPolicy())
        (acked,) = life.ask(Process(), publish("a", b"1"), 0.0)
        assert isinstance(acked, Acked)
        assert acked.offset is not None
        spoil()
        fresh = Life(path, HistoryPolicy(), boot="2" if path.stat().st_size > 99 else "1")
        (*_, answered) = fresh.ask(Process(), Since("a", acked.offset), 0.0)
        assert isinstance(answered, Answered)
        if path.read_bytes().find(acked.offset.epoch[:12].encode()) < 0:
            assert not answered.complete


@given(st.lists(st.binary(max_size=50), max_size=20), st.integers(1, 7))
def test_frames_come_out_as_they_went_in_however_they_are_cut(messages: list[bytes], step: int) -> None:
    wire, turns = bytearray(), list[object]()
    writer = Writer(wire.extend, turns.append)
    for data in messages:
        writer.say(Part(1, data), len(data))
    writer.flush()
    writer.flush()
    frames, out = Frames(), list[FromHub]()
    for start in range(0, len(wire), step):
        for frame in frames.feed(bytes(wire[start : start + step])):
            out += from_hub.decode(frame)
    assert out == [Part(1, data) for data in messages]
    assert len(turns) == bool(messages)


def test_a_length_that_no_frame_has_is_refused_before_it_is_waited_for() -> None:
    with pytest.raises(Invalid, match="none has over"):
        list(Frames().feed((FRAME_BYTES_MAX + 1).to_bytes(4, "big")))
