"""Who is there, and the news of it: a user comes once and goes once, however many windows he has."""

from __future__ import annotations

from tests.gateway.wire import by_query, line

from dougong.errors import Unavailable
from dougong.gateway.fanout import InProcess
from dougong.gateway.gateway import Gateway
from dougong.gateway.history import Offset
from dougong.gateway.living import Living
from dougong.gateway.outbox import Slow
from dougong.gateway.settings import GatewaySettings


async def test_users_come_and_go_once() -> None:
    def may(user: str, topic: str) -> bool:
        return topic in {"room", "presence:room", "presence:presence:room"}

    gateway = Gateway(by_query, may_subscribe=may, announce=lambda topic: topic.endswith("room"))
    async with line(gateway) as it:
        watcher = await it.session("/live?user=watcher")
        watcher.say(kind="subscribe", id=1, topic="presence:room")
        assert (await watcher.told())["kind"] == "subscribed"
        one, two, other = await it.session(), await it.session(), await it.session("/live?user=8")
        for peer in (one, two, other):
            peer.say(kind="subscribe", id=1, topic="room")
            await peer.told()
        assert gateway.who("room") == {"7", "8"}
        assert gateway.present("room") == 3
        one.say(kind="subscribe", id=2, topic="room")  # again: nobody came
        await one.told()
        one.hang_up()
        await it.until(lambda: gateway.present("room") == 2)
        other.say(kind="unsubscribe", id=2, topic="room")
        await other.told()
        two.hang_up()
        told = [(await watcher.told())["data"] for _ in range(4)]
        assert [(one["event"], one["user"]) for one in told if isinstance(one, dict)] == [
            ("join", "7"),
            ("join", "8"),
            ("leave", "8"),
            ("leave", "7"),
        ]
        assert gateway.who("room") == frozenset()


class Unsteady(InProcess):
    """Carries nothing while it is down."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False

    async def publish(self, topic: str, data: bytes, *, slow: Slow, keep: bool) -> Offset | None:
        if self.down:
            raise Unavailable("down", code="down")
        return await super().publish(topic, data, slow=slow, keep=keep)


def may_watch(user: str, topic: str) -> bool:
    return topic in {"room", "presence:room"}


async def test_what_cannot_be_told_is_the_difference_only_and_is_told_later() -> None:
    carrier = Unsteady()
    gateway = Gateway(by_query, may_subscribe=may_watch, announce=lambda topic: topic == "room", fan_out=carrier)
    async with line(gateway) as it:
        watcher = await it.session("/live?user=watcher")
        watcher.say(kind="subscribe", id=1, topic="presence:room")
        assert (await watcher.told())["kind"] == "subscribed"
        there = await it.session("/live?user=8")
        there.say(kind="subscribe", id=1, topic="room")
        assert (await watcher.told())["kind"] == "message"
        carrier.down = True
        for number in range(50):
            peer = await it.session(f"/live?user=guest-{number}")
            peer.say(kind="subscribe", id=1, topic="room")
            await peer.told()
            peer.hang_up()
            await it.until(lambda: gateway.present("room") == 1)
            assert len(gateway._presence._news) <= 1
        there.hang_up()
        await it.until(lambda: gateway.present("room") == 0)
        assert len(gateway._presence._news) == 1
        carrier.down = False
        gateway.tick(1)
        told = (await watcher.told())["data"]
        assert isinstance(told, dict)
        assert (told["event"], told["user"]) == ("leave", "8")


async def test_whoever_watches_is_told_which_processes_there_are() -> None:
    gateway = Gateway(
        by_query,
        may_subscribe=may_watch,
        announce=lambda topic: topic == "room",
        settings=GatewaySettings(presence_term_s=3),
    )
    async with line(gateway) as it:
        for user in ("early", "late"):
            watcher = await it.session(f"/live?user={user}")
            watcher.say(kind="subscribe", id=1, topic="presence:room")
            assert (await watcher.told())["kind"] == "subscribed"
            told = await watcher.told()  # by the ticks of its clock
            assert told["data"] == {"event": "processes", "processes": [gateway._presence.process]}


def test_silent_processes_are_gone_but_not_for_one_who_hears_nobody() -> None:
    living = Living("me", term=6)
    for now in range(0, 20, 2):
        living.heard("me", now)
        living.heard("other", now - now % 4)
        if now <= 6:
            assert living.there() is None  # there may be others that it has not heard yet
    assert living.there() == frozenset({"me", "other"})
    # Nothing comes from anybody, itself included, however long that lasts: nobody is said to be gone.
    assert living.there() == frozenset({"me", "other"})
    living.heard("me", 100)  # it hears again: the others have their time
    assert living.there() is None
    for now in range(102, 120, 2):
        living.heard("me", now)
    assert living.there() == frozenset({"me"})


def test_one_that_is_silent_while_others_are_heard_is_gone() -> None:
    living = Living("me", term=6)
    gone_at = 0
    for now in range(0, 60, 2):
        living.heard("me", now)
        if now <= 20:
            living.heard("killed", now)
        there = living.there()
        if there is not None and "killed" not in there:
            gone_at = gone_at or now
    assert gone_at == 28  # more than a term after its last word
