"""Members here and members told to the fan-out agree, whoever comes and goes while it is being told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine

import pytest
from tests.gateway.wire import by_query, frame, line

from dougong.errors import Forbidden, Overloaded, Unavailable
from dougong.gateway.connection import Connection, Patience, Phase
from dougong.gateway.fanout import Deliver, InProcess, Lost, Published
from dougong.gateway.frames import Opcode
from dougong.gateway.gateway import Gateway
from dougong.gateway.history import Missed, Offset
from dougong.gateway.membership import Membership
from dougong.gateway.outbox import Slow
from dougong.gateway.settings import GatewaySettings
from dougong.gateway.topics import Topics


class Far:
    """A fan-out that takes its time, in which others come and go; sometimes it cannot be reached."""

    def __init__(self, chance: random.Random, *, broken: float = 0.0) -> None:
        self.joined: set[str] = set()
        self._chance = chance
        self._broken = broken
        self._near = InProcess()

    async def _travel(self) -> None:
        for _ in range(self._chance.randrange(4)):
            await asyncio.sleep(0)

    async def start(self, deliver: Deliver, lost: Lost) -> None:
        await self._near.start(deliver, lost)

    async def close(self) -> None:
        await self._near.close()

    async def join(self, topic: str) -> Offset:
        await self._travel()
        if self._chance.random() < self._broken:
            raise Unavailable("far away")
        self.joined.add(topic)
        await self._travel()
        return await self._near.join(topic)

    async def leave(self, topic: str) -> None:
        await self._travel()
        self.joined.discard(topic)
        await self._travel()

    async def publish(self, topic: str, data: bytes, *, slow: Slow, keep: bool) -> Offset | None:
        return await self._near.publish(topic, data, slow=slow, keep=keep)

    async def since(self, topic: str, offset: Offset) -> Missed:
        await self._travel()
        missed = await self._near.since(topic, offset)
        await self._travel()
        return missed


class People:
    """Some connections, and what was announced of them."""

    def __init__(self, far: Far) -> None:
        self.topics: Topics[Connection] = Topics()
        self.tasks: set[asyncio.Task[None]] = set()
        self.changes: dict[tuple[int, str], int] = {}
        self.membership = Membership(self.topics, far, self.spawn, self._changed)
        self.all: list[Connection] = []
        self._serial = 0
        for _ in range(4):
            self.add()

    def add(self) -> None:
        self._serial += 1
        one = Connection(1, self._serial, "", 0, Patience())
        one.phase = Phase.OPEN
        self.all.append(one)

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        self.tasks.add(asyncio.create_task(work))

    def _changed(self, connection: Connection, topic: str, joined: bool) -> None:
        key = (connection.serial, topic)
        self.changes[key] = self.changes.get(key, 0) + (1 if joined else -1)
        assert self.changes[key] in {0, 1}

    async def settled(self) -> None:
        while self.tasks:
            done, self.tasks = self.tasks, set()
            for outcome in await asyncio.gather(*done, return_exceptions=True):
                assert outcome is None or isinstance(outcome, (Forbidden, Overloaded, TimeoutError, Unavailable)), (
                    outcome
                )


async def some_time(chance: random.Random, people: People) -> None:
    membership = people.membership

    async def join(one: Connection, topic: str, since: Offset | None) -> None:
        async with asyncio.timeout(0 if chance.random() < 0.1 else 60):
            await membership.join(one, topic, since, topics_max=2)

    for _ in range(30):
        one, topic = chance.choice(people.all), chance.choice("abc")
        what = chance.random()
        if what < 0.55:
            people.spawn(join(one, topic, Offset("x", 0) if chance.random() < 0.5 else None))
        elif what < 0.85:
            people.spawn(membership.leave(one, topic))
        elif one.phase is Phase.OPEN:
            one.phase = Phase.GONE
            membership.leave_all(one)
            people.all.remove(one)
            people.add()
        if chance.random() < 0.5:
            await asyncio.sleep(0)


@pytest.mark.parametrize("broken", [0.0, 0.2])
async def test_the_fan_out_knows_exactly_the_topics_that_have_members(broken: float) -> None:
    for seed in range(150):
        chance = random.Random(seed)
        far = Far(chance, broken=broken)
        people = People(far)
        await some_time(chance, people)
        await people.settled()
        assert far.joined == set(people.topics), seed
        for one in people.all:
            has = one.topics
            mine = set() if has is None else has if isinstance(has, set) else {has}
            assert len(mine) <= 2
        assert not people.membership._turns
        assert not people.membership._held
        assert not people.membership._leaving
        assert not people.membership._coming


async def test_without_waiting_for_a_leaving_a_topic_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablation: leavings are not remembered, so that joinings do not wait for them."""

    class Forgetful(dict[str, asyncio.Event]):
        def get(self, key: str, default: object = None) -> None:  # type: ignore[override]
            return None

        def __contains__(self, key: object) -> bool:
            return False

        def __delitem__(self, key: str) -> None:
            self.pop(key, None)

    lost = 0
    for seed in range(150):
        chance = random.Random(seed)
        far = Far(chance)
        people = People(far)
        monkeypatch.setattr(people.membership, "_leaving", Forgetful())
        await some_time(chance, people)
        await people.settled()
        lost += far.joined < set(people.topics)
    assert lost


async def test_what_is_published_while_somebody_catches_up_comes_once_and_in_order() -> None:
    for seed in range(40):
        chance = random.Random(seed)
        far = Far(chance)
        people = People(far)
        one, got = people.all[0], list[int]()

        def deliver(published: Published, people: People = people, got: list[int] = got) -> None:
            people.membership.overhear(published)
            if people.topics.members(published.topic):
                got.append(int(published.data))

        await far.start(deliver, lambda _: None)
        place = await far.join("a")

        async def catch_up(
            people: People = people, one: Connection = one, place: Offset = place, got: list[int] = got
        ) -> None:
            joined = await people.membership.join(one, "a", place, topics_max=9)
            assert joined.complete
            got += [int(data) for _, data in joined.missed] + [int(held.data) for held in joined.held]

        catching = asyncio.create_task(catch_up())
        for number in range(20):
            await far.publish("a", b"%d" % number, slow=Slow.RESUME, keep=True)
            await asyncio.sleep(0)
        await catching
        assert got == list(range(20)), seed


async def test_one_connection_asks_for_so_much_at_once_and_no_more() -> None:
    """Also of a topic that it has: the fan-out hangs, and what waits for it must not grow with every message."""

    class Hanging(InProcess):
        async def since(self, topic: str, offset: Offset) -> Missed:
            await asyncio.Event().wait()
            raise AssertionError

    gateway = Gateway(by_query, fan_out=Hanging(), settings=GatewaySettings(topics_per_connection_max=5))
    async with line(gateway) as it:
        peer = await it.session()
        for number in range(50):
            peer.say(kind="subscribe", id=number, topic="user:7", offset=["a", 1])
        assert [(await peer.told())["code"] for _ in range(45)] == ["too_many_topics"] * 45


async def test_a_client_that_subscribes_and_unsubscribes_in_one_breath_is_no_member() -> None:
    settings = GatewaySettings(topics_per_connection_max=5)
    gateway = Gateway(
        by_query, fan_out=Far(random.Random(1)), settings=settings, may_subscribe=lambda user, topic: True
    )
    async with line(gateway) as it:
        peer = await it.session()
        peer.say(kind="subscribe", id=1, topic="a")
        peer.say(kind="unsubscribe", id=2, topic="a")
        assert {(await peer.told())["id"] for _ in range(2)} == {1, 2}
        assert gateway.present("a") == 0
        for number in range(30):  # all at once: the limit is not one of those that were let in before
            peer.say(kind="subscribe", id=number, topic=f"t{number}")
        told = [await peer.told() for _ in range(30)]
        assert sum(one["kind"] == "subscribed" for one in told) == 4  # and his own topic
        assert {one["code"] for one in told if one["kind"] == "refused"} == {"too_many_topics"}
        peer.send(frame(Opcode.CLOSE))
        await it.empty()
        await it.until(lambda: not it.gateway.present("t1"))
