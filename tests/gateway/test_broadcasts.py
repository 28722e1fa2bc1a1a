"""Messages to many: in turns, in order, bounded; and who was left out is told so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.wire import Line, Peer, by_query, line

from dougong.gateway.broadcasts import Broadcasts
from dougong.gateway.crowd import Telling
from dougong.gateway.gateway import Gateway
from dougong.gateway.outbox import Slow
from dougong.gateway.settings import GatewaySettings
from dougong.gateway.topics import Topics

MESSAGES = 40


def gateway(bytes_max: int) -> Gateway:
    settings = GatewaySettings(broadcast_slice=1, broadcasts_bytes_max=bytes_max)
    return Gateway(by_query, may_subscribe=lambda user, topic: topic == "news", settings=settings)


async def joined(it: Line, user: int) -> tuple[Peer, object]:
    peer = await it.session(f"/live?user={user}")
    peer.say(kind="subscribe", id=1, topic="news")
    return peer, (await peer.told())["offset"]


async def follow(peer: Peer, offset: object) -> tuple[list[int], int]:
    """Numbers as they come, each once, and how often some were said to be lost; who is told so asks."""
    got, lost = list[int](), 0
    while len(got) < MESSAGES:
        told = await peer.told()
        if told["kind"] == "lost":
            lost += 1
            peer.say(kind="subscribe", id=2, topic="news", offset=offset)
        elif told["kind"] == "subscribed":
            assert told["complete"]
        else:
            number = told["data"]
            assert isinstance(number, int)
            if got and number <= got[-1]:
                continue
            if not lost or number == (got[-1] if got else -1) + 1:  # else it comes before what was asked for
                got.append(number)
                offset = told["offset"]
    return got, lost


@pytest.mark.parametrize("bound", [400, 1 << 20])
async def test_what_cannot_wait_is_told_to_be_lost_and_can_be_had(bound: int) -> None:
    async with line(gateway(bound)) as it:
        peers = [await joined(it, number) for number in range(3)]
        following = [asyncio.create_task(follow(*peer)) for peer in peers]
        most = 0
        for number in range(MESSAGES):
            await it.gateway.publish("news", str(number).encode())
            most = max(most, it.gateway._broadcasts.waiting_bytes)
            if number % 10 == 9:
                await asyncio.sleep(0)  # some are told meanwhile, and others not
        for got, lost in await asyncio.gather(*following):
            assert got == list(range(MESSAGES))
            assert (lost > 0) is (bound == 400)
        assert (most <= 400 + 200) is (bound == 400)  # beyond it, a word of a loss for the topic
        assert it.gateway._broadcasts.waiting_bytes == 0


class Someone:
    topics: str | set[str] | None = None

    def __init__(self) -> None:
        self.told: list[bytes] = []


class Crowded:
    """Broadcasts whose turns come when a test says so."""

    def __init__(self, *, part: int, bytes_max: int = 1 << 20) -> None:
        self.topics = Topics[Someone](part)
        settings = GatewaySettings(broadcasts_bytes_max=bytes_max)
        self.turns: list[Callable[[], None]] = []
        self.broadcasts = Broadcasts(self.topics, self._write_all, settings, self.turns.append)
        self.writes = 0

    def join(self, topic: str = "news") -> Someone:
        one = Someone()
        self.topics.subscribe(one, topic)
        return one

    def tell(self, text: bytes, topic: str = "news", slow: Slow = Slow.RESUME) -> None:
        if self.topics.count(topic):
            self.broadcasts.tell(topic, text, slow)

    def turn(self) -> bool:
        if self.turns:
            self.turns.pop(0)()
        return bool(self.turns)

    def _write_all(self, members: Sequence[Someone], told: Sequence[Telling]) -> int:
        for one in members:
            self.writes += 1
            one.told += [telling.frame for telling in told]
        return len(members) * len(told)


STEPS = st.lists(
    st.one_of(
        st.just(("join", 0)),
        st.just(("tell", 0)),
        st.tuples(st.just("leave"), st.integers(0, 9)),
        st.tuples(st.just("turn"), st.integers(1, 3)),
    ),
    max_size=60,
)


@given(STEPS, st.integers(1, 4))
def test_each_member_is_told_what_was_published_while_he_was_one(steps: list[tuple[str, int]], part: int) -> None:
    it = Crowded(part=part)
    members: list[Someone] = []
    due: dict[Someone, list[bytes]] = {}
    gone: list[Someone] = []
    for number, (what, how_many) in enumerate(steps):
        if what == "join":
            members.append(it.join())
            due[members[-1]] = []
        elif what == "leave" and members:
            gone.append(members.pop(how_many % len(members)))
            it.topics.unsubscribe(gone[-1], "news")
        elif what == "tell":
            it.tell(b"%d" % number)
            for one in members:
                due[one].append(b"%d" % number)
        elif what == "turn":
            for _ in range(how_many):
                it.turn()
    while it.turn():
        pass
    for one in members:
        assert one.told == due[one]
    for one in gone:  # what waited when he left is not his any more
        assert one.told == due[one][: len(one.told)]
    assert it.broadcasts.waiting_bytes == 0


def test_what_comes_while_many_are_told_goes_out_with_what_waits() -> None:
    it = Crowded(part=10)
    members = [it.join() for _ in range(100)]
    it.tell(b"a")
    for _ in range(5):
        it.turn()
    it.tell(b"b")
    it.tell(b"c")
    while it.turn():
        pass
    assert all(one.told == [b"a", b"b", b"c"] for one in members)
    assert it.writes == 50 + 100  # half had the first by itself


def test_who_joined_in_between_is_soon_told_with_the_others() -> None:
    it = Crowded(part=10)
    members = [it.join() for _ in range(30)]
    for number in range(8):
        it.tell(b"%d" % number)
        members.append(it.join())  # into a part of its own: what waits is not for it
    crowd = it.topics.crowd("news")
    assert crowd is not None
    assert len(crowd.parts) == 3 + 8
    while it.turn():
        pass
    assert len(crowd.parts) == 4
    assert [len(one.told) for one in members] == [8] * 30 + [7, 6, 5, 4, 3, 2, 1, 0]


def test_other_topics_have_their_turn_between() -> None:
    it = Crowded(part=10)
    for _ in range(40):
        it.join("loud")
    quiet = [it.join("quiet") for _ in range(11)]
    for _ in range(100):
        it.tell(b"x" * 1000, "loud")
    it.tell(b"y", "quiet")
    for _ in range(4 + 2):  # once round
        it.turn()
    assert all(one.told == [b"y"] for one in quiet)


def test_what_goes_out_in_one_write_is_bounded() -> None:
    it = Crowded(part=1)
    members = [it.join(), it.join()]
    for _ in range(3):
        it.tell(b"x" * 40_000)
    it.turn()
    assert len(members[0].told) + len(members[1].told) == 1
    while it.turn():
        pass
    assert [len(one.told) for one in members] == [3, 3]


async def test_of_what_was_told_together_what_gives_way_is_each_messages_own() -> None:
    """A peer that stops reading in the middle of several messages has the rest of the one that was begun, and what of
    the others may be kept."""
    settings = GatewaySettings(broadcast_slice=1, outbox_bytes_max=1)
    one = Gateway(by_query, may_subscribe=lambda user, topic: topic == "news", settings=settings)
    async with line(one) as it:
        slow, quick = [(await joined(it, number))[0] for number in range(2)]
        for number in range(400):
            await it.gateway.publish("news", b'"%d %s"' % (number, b"x" * 60_000), slow=Slow.DROP_OLDEST)
        await it.until(lambda: it.gateway._broadcasts.waiting_bytes == 0)
        for peer in (slow, quick):
            numbers = [int(str((await peer.told())["data"]).split()[0])]
            while numbers[-1] < 399:
                await it.gateway.publish("news", b'"399 "')
                told = await peer.told()
                if told["kind"] == "message":
                    numbers.append(int(str(told["data"]).split()[0]))
            assert numbers[0] == 0
            assert numbers == sorted(numbers)
