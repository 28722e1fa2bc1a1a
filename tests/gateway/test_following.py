"""A client's place in a topic: the reader gets each message once and in order, or is told that it cannot be had."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dougong.gateway.following import Follower, Gap, Stage, Told
from dougong.gateway.history import History, HistoryPolicy, Offset

KEPT = 5


def told(number: int, epoch: str = "a") -> Told:
    return Told("t", str(number).encode(), Offset(epoch, number))


def numbers(follower: Follower) -> list[int | None]:
    got = [one.offset.number if isinstance(one, Told) and one.offset else None for one in follower.queue]
    follower.queue.clear()
    return got


def test_what_is_ahead_of_its_turn_waits_for_what_was_missed() -> None:
    follower = Follower("t", offset=Offset("a", 1))
    follower.ask()
    follower.answered(Offset("a", 4), complete=True)
    follower.message(told(5))
    assert numbers(follower) == []
    for number in (2, 3, 4):
        follower.message(told(number))
    follower.message(told(6))
    assert numbers(follower) == [2, 3, 4, 5, 6]


def test_what_comes_before_the_answer_is_not_taken() -> None:
    """It comes again; and if it is of an epoch that is over by then, it must not follow what comes after."""
    follower = Follower("t", offset=Offset("old", 7))
    follower.ask()
    follower.message(told(8, "old"))
    follower.answered(Offset("a", 3), complete=False)
    follower.message(told(4))
    assert numbers(follower) == [None, 4]


def test_a_gap_is_told_once_and_ends_what_was_before() -> None:
    follower = Follower("t", offset=Offset("old", 7))
    follower.ask()
    follower.answered(Offset("a", 3), complete=False)
    follower.message(told(3))
    follower.message(told(4))
    assert numbers(follower) == [None, 4]


def test_what_keeps_no_history_is_never_held_back() -> None:
    follower = Follower("t", offset=Offset("a", 0))
    follower.ask()
    follower.message(Told("t", b"1", None))
    assert len(follower.queue) == 1


class World:
    """A topic with its history, a gateway's connection, and a reader, as a network may order them."""

    def __init__(self, queue_max: int) -> None:
        self.history = History(HistoryPolicy(messages_max=KEPT), random=lambda: 0.5)
        self.follower = Follower("t", queue_max=queue_max)
        self.wire: list[tuple[str, object]] = []
        self.joined = False
        self.read: list[int | None] = []
        self.asked()

    def asked(self) -> None:
        self.wire.append(("ask", self.follower.ask()))
        self.joined = True

    def publish(self) -> None:
        offset = self.history.add("t", b"x", 0.0)
        if self.joined:
            self.wire.append(("tell", Told("t", b"x", offset)))

    def answer(self) -> None:
        """The gateway comes to a question: what is published after it is behind the answer, what was before may be
        on its way already."""
        at = next((i for i, (kind, _) in enumerate(self.wire) if kind == "ask"), None)
        if at is None:
            return
        _, offset = self.wire.pop(at)
        assert offset is None or isinstance(offset, Offset)
        missed = None if offset is None else self.history.since("t", offset, 0.0)
        now = self.history.position("t") if missed is None else missed.now
        self.wire.append(("answer", (now, missed is None or missed.complete)))
        for number, data in () if missed is None else missed.messages:
            self.wire.append(("tell", Told("t", data, Offset(now.epoch, number))))

    def arrive(self) -> None:
        if not self.wire or self.wire[0][0] == "ask":
            return
        kind, what = self.wire.pop(0)
        if kind == "tell":
            assert isinstance(what, Told)
            self.follower.message(what)
        else:
            assert isinstance(what, tuple)
            self.follower.answered(what[0], complete=what[1])
        if self.follower.wants_more:
            self.asked()

    def pop(self) -> None:
        if self.follower.queue:
            one = self.follower.queue.popleft()
            self.read.append(one.offset.number if isinstance(one, Told) and one.offset is not None else None)
            if self.follower.wants_more:
                self.asked()

    def cut(self) -> None:
        self.wire.clear()
        self.asked()

    def settle(self) -> None:
        for _ in range(500):
            self.answer()
            self.arrive()
            self.pop()


STEPS = ["publish", "answer", "arrive", "pop", "cut"]


@given(
    steps=st.lists(st.sampled_from(["publish", *STEPS]), max_size=80),
    queue_max=st.integers(1, 6),
)
def test_each_message_once_in_order_or_a_gap(steps: list[str], queue_max: int) -> None:
    world = World(queue_max)
    world.answer()
    world.arrive()
    for step in steps:
        getattr(world, step)()
    world.settle()
    assert world.follower.stage is Stage.LIVE
    assert len(world.follower.queue) == 0
    expected = 1
    gap = False
    for number in world.read:
        if number is None:
            gap = True
            continue
        assert number == expected if not gap else number >= expected
        expected, gap = number + 1, False
    assert gap or expected == world.history.position("t").number + 1


def test_the_property_sees_a_client_that_takes_what_is_ahead_of_its_turn() -> None:
    """Without the wait, what was missed looks like a repeat and is dropped."""
    follower = Follower("t", offset=Offset("a", 1))
    follower.ask()
    follower.stage = Stage.LIVE  # the safeguard taken away
    for number in (4, 2, 3, 4):
        follower.message(told(number))
    assert numbers(follower) == [4]


def test_gaps_do_not_pile_up_while_nobody_reads() -> None:
    follower = Follower("t", offset=Offset("a", 1))
    for life in range(10):
        follower.ask()
        follower.answered(Offset(f"{life}", 3), complete=False)
    assert list(follower.queue) == [Gap("t")]
