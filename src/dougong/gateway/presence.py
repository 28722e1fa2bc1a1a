"""Who is there: users by topic, and the news of who comes and goes for those topics that want it.

A user with three windows comes once and goes once. Each process speaks for its own connections, so an event names it:
a user is gone from all when each process that announced him has taken it back, or is gone itself. That cannot be
announced by one that was killed: `living` finds out, and members of `presence:TOPIC` are told now and then which
processes there are, by the process that they are connected to.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine

import msgspec

from dougong.errors import Error
from dougong.gateway.connection import NEVER, Connection, Phase
from dougong.gateway.fanout import FanOut, Published
from dougong.gateway.living import Living
from dougong.gateway.outbox import Slow
from dougong.gateway.topics import Topics
from dougong.telemetry import get_logger

__all__ = ["PROCESSES", "Announce", "Presence"]

_log = get_logger("dougong.gateway")

Announce = Callable[[str], bool]
"""(topic): whether `presence:TOPIC` is to tell who comes and goes, as {"event": "join" | "leave", "user", "process"},
and who is still there to tell it, as {"event": "processes", "processes"}: users of others are gone. Never of a topic
that is itself one of these."""
PROCESSES = "dougong:processes"
"""Where each says that it is there, if it announces anything or has anybody who wants to know."""
_encode = msgspec.json.Encoder().encode
_PREFIX = "presence:"


class _Event(msgspec.Struct):
    process: str


_read = msgspec.json.Decoder(_Event).decode


class Presence:
    """Of one process. `tell` hands a message to this process's members of a topic, `send` to one of them."""

    def __init__(
        self,
        topics: Topics[Connection],
        announce: Announce | None,
        fan_out: FanOut,
        *,
        spawn: Callable[[Coroutine[None, None, None]], bool],
        tell: Callable[[str, bytes], None],
        send: Callable[[Connection, str, bytes], None],
        term: int,
    ) -> None:
        self._topics = topics
        self._announce = announce
        self._fan_out = fan_out
        self._spawn = spawn
        self._tell_members = tell
        self._send = send
        self._term = max(3, term)
        self._there: dict[tuple[str, str], int] = {}
        """Connections by (topic, user), of announced topics only."""
        self._news: dict[tuple[str, str], bool] = {}
        """Who came (True) or went, and was not told of: the difference between what others know and what is, so never
        more than there was and there is, however long nobody can be told."""
        self._telling = False
        self._said = NEVER
        """The tick at which others were told that this process is there."""
        self._watched: dict[str, int] = {}
        """Connections that are members, by presence topic."""
        self._fresh: list[tuple[Connection, str]] = []
        """Of them those that were not told which processes there are."""
        self._listening = False
        self._repeat = 0
        self._now = 0
        self.process = secrets.token_hex(4)
        self._living = Living(self.process, self._term)
        self._known: frozenset[str] = frozenset()

    def users(self, topic: str) -> frozenset[str]:
        """Who has a connection that is a member."""
        return frozenset(one.user for one in self._topics.members(topic) if one.user is not None)

    def changed(self, connection: Connection, topic: str, joined: bool) -> None:
        """A membership began or ended."""
        user = connection.user
        if self._announce is None or user is None:
            return
        if topic.startswith(_PREFIX):
            self._watch(connection, topic, joined)
            return
        if not self._announce(topic):
            return
        before = self._there.get((topic, user), 0)
        after = before + 1 if joined else before - 1
        if after > 0:
            self._there[topic, user] = after
        else:
            self._there.pop((topic, user), None)
        if before == 0 or after == 0:
            if self._news.get((topic, user)) is (not joined):
                del self._news[topic, user]  # nobody has heard of what is over again
            else:
                self._news[topic, user] = joined
            self._go_on()

    def heard(self, published: Published) -> None:
        """Something that another process said, or this one, of itself or of its users."""
        if self._listening and (published.topic == PROCESSES or published.topic.startswith(_PREFIX)):
            try:
                self._living.heard(_read(published.data).process, self._now)
            except msgspec.MsgspecError:
                _log.warning("presence_not_understood", topic=published.topic)

    def tick(self, now: int) -> None:
        """It is that tick now: say what is due."""
        self._now = now
        if self._there or self._news or self._watched:
            self._go_on()
        if self._watched and self._listening:
            self._tell_who_is_there(now)

    def _watch(self, connection: Connection, topic: str, joined: bool) -> None:
        count = self._watched.get(topic, 0) + (1 if joined else -1)
        if count:
            self._watched[topic] = count
        else:
            self._watched.pop(topic, None)
        if joined:
            self._fresh.append((connection, topic))

    def _tell_who_is_there(self, now: int) -> None:
        there = self._living.there()
        fresh = [one for one in self._fresh if one[0].phase is not Phase.HANDSHAKE]
        self._fresh = [one for one in self._fresh if one[0].phase is Phase.HANDSHAKE]
        if there is None:
            self._repeat = now  # all are told as soon as it is known
            return
        data = _encode({"event": "processes", "processes": sorted(there)})
        if self._known - there or now >= self._repeat:  # again, since what is said may be lost on its way
            self._repeat = now + self._term
            for topic in tuple(self._watched):
                self._tell_members(topic, data)
        else:
            for connection, topic in fresh:
                self._send(connection, topic, data)
        self._known = there

    # what others are told

    def _go_on(self) -> None:
        if not self._telling and (self._news or self._now - self._said >= self._term // 3 or self._said < 0):
            self._telling = self._spawn(self._tell())

    async def _tell(self) -> None:
        """That this process is there, first; then who came and went, one after the other. What fails is tried again
        with the next tick."""
        try:
            if self._watched and not self._listening:
                await self._fan_out.join(PROCESSES)
                self._listening = True
            await self._say_so()
            while self._news:
                key = topic, user = next(iter(self._news))
                joined = self._news.pop(key)
                event = {"event": "join" if joined else "leave", "user": user, "process": self.process}
                try:
                    await self._fan_out.publish(_PREFIX + topic, _encode(event), slow=Slow.RESUME, keep=True)
                except BaseException:
                    self._news.setdefault(key, joined)
                    raise
        except Error as error:
            _log.warning("presence_not_told", waiting=len(self._news), error=str(error))
        finally:
            self._telling = False

    async def _say_so(self) -> None:
        if self._said >= 0 and self._now - self._said < self._term // 3:
            return
        now = self._now
        await self._fan_out.publish(PROCESSES, _encode(_Event(self.process)), slow=Slow.LATEST, keep=False)
        if (
            self._said >= 0 and now - self._said > self._term // 2
        ):  # others may have taken it for gone, and its users with it
            for key in self._there:
                self._news.setdefault(key, True)
        self._said = now
