"""A gateway: connections, who they belong to, and what they are told.

Everything here runs on one event loop and holds one process's connections. It speaks through `Sockets`, decides by
`connection`, `frames` and `outbox`, and hears from other processes by a `FanOut`.
"""

from __future__ import annotations

import asyncio
import random as _random
from collections.abc import Coroutine, Iterable
from contextvars import Context
from itertools import islice
from time import monotonic

from dougong.errors import Invalid
from dougong.gateway import messages
from dougong.gateway._metrics import connections as _connections
from dougong.gateway._metrics import refused as _refused
from dougong.gateway.broadcasts import Broadcasts
from dougong.gateway.connection import NEVER, SESSION_OVER, TICK_S, Connection, Phase, next_deadline, next_step
from dougong.gateway.conversation import Calls, Conversation, MaySubscribe
from dougong.gateway.doorway import Authenticate, Doorway, EndedNews
from dougong.gateway.ending import Ending
from dougong.gateway.fanout import FanOut, InProcess, Published
from dougong.gateway.frames import CloseCode, Opcode, encode_frame, encode_text
from dougong.gateway.handshake import Refused
from dougong.gateway.hearing import Hearing
from dougong.gateway.history import Offset
from dougong.gateway.membership import Membership
from dougong.gateway.memory import resident_bytes
from dougong.gateway.outbox import Slow
from dougong.gateway.presence import Announce, Presence
from dougong.gateway.roster import Roster, Shown, show
from dougong.gateway.settings import GatewaySettings
from dougong.gateway.sockets import EVENTS_MAX, Came, Sockets
from dougong.gateway.topics import Topics
from dougong.gateway.wheel import Wheel
from dougong.gateway.writing import Writing
from dougong.telemetry import get_logger

__all__ = ["Gateway"]

_log = get_logger("dougong.gateway")
KICKED = 4002
_PACE_S = 0.02
_BURST_S = 0.2
"""What may be due at once of a drain."""
_OPEN = Phase.OPEN
_PING = encode_frame(Opcode.PING, b"")


class _Over(Exception):
    """Ends what is under way."""


async def _alone(work: Coroutine[None, None, None]) -> None:
    """What fails for one connection ends nothing for others."""
    try:
        await work
    except Exception:  # noqa: BLE001 (see above)
        _log.exception("connection_work_failed")


def _own_topic(user: str, topic: str) -> bool:
    return topic == f"user:{user}"


class Gateway:
    """`Gateway(authenticate)`; then `start`, `publish`, and `drain` before `stop`.

    - `authenticate`: who connects, from the handshake's headers and query (`jwt_authenticate`).
    - `may_subscribe`: by default a user gets his own topic, `user:ID`, and no other.
    - `calls`: what a client's calls are answered by (`service_calls`); without it they are refused.
    - `ended`: sessions whose connections are to end with them.
    - `announce`: topics of which `presence:TOPIC` tells who comes and goes; the same in all processes.
    """

    def __init__(
        self,
        authenticate: Authenticate,
        *,
        may_subscribe: MaySubscribe = _own_topic,
        calls: Calls | None = None,
        fan_out: FanOut | None = None,
        ended: EndedNews | None = None,
        announce: Announce | None = None,
        settings: GatewaySettings | None = None,
        random: _random.Random | None = None,
    ) -> None:
        self._fan_out: FanOut = fan_out if fan_out is not None else InProcess()
        self.settings = settings if settings is not None else GatewaySettings()
        self._random = random if random is not None else _random.Random()
        self._ended = ended
        self._ended_seen = 0
        self._topics: Topics[Connection] = Topics(self.settings.broadcast_slice)
        self._wheel: Wheel[Connection] = Wheel()
        self._roster = Roster(self.settings)
        self._serial = 0
        self._now = 0
        self._presence = Presence(
            self._topics,
            announce,
            self._fan_out,
            spawn=self.spawn,
            tell=self._tell_here,
            send=lambda connection, topic, data: self._send(connection, messages.message(topic, None, data), topic),
            term=self.settings.presence_term_s,
        )
        self._membership = Membership(self._topics, self._fan_out, self.spawn, self._presence.changed)
        self._conversation = Conversation(
            self._membership,
            self.settings,
            calls=calls,
            may_subscribe=may_subscribe,
            send=self._send,
            send_all=self._send_all,
            spawn=self.spawn,
            new_task=self._new_task,
            now=self.tick_now,
        )
        self._doorway = Doorway(self, authenticate, self.settings, self._roster, self._membership, ended)
        self._ending = Ending(self._roster, self._wheel, self._membership, self.settings.patience, self.tick_now)
        self.draining = False
        self.crowded = False
        self._sockets: Sockets | None = None
        self._writing: Writing
        self._hearing: Hearing
        self.came: Came
        self._broadcasts: Broadcasts[Connection]
        self._tasks: asyncio.TaskGroup | None = None
        self._runner: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._over = asyncio.Event()

    # for who runs it

    async def start(self, host: str = "127.0.0.1", port: int = 0, *, shared: bool = False) -> int:
        """Listen; the port. `shared`: other processes listen on the same one.

        Raises `Invalid` (`cannot_listen`), and what the fan-out raises; then nothing is left behind.
        """
        loop = asyncio.get_running_loop()
        self._sockets = sockets = Sockets(self)
        ending = self._ending
        self._writing = Writing(sockets, self.settings, ending.forget, self._look_again, ending.emptied, self.tick_now)
        self._broadcasts = Broadcasts(self._topics, self._writing.write_all, self.settings, loop.call_soon)
        self._hearing = Hearing(
            self._writing,
            self.settings,
            greet=self._doorway.came,
            said=self._conversation.hear,
            binary=self._binary,
            close=ending.close,
            fail=ending.fail,
            closed=ending.closed_by_peer,
            look_again=self._look_again,
        )
        self.came = self._hearing.came
        ending.begin(sockets, self._writing, self._hearing)
        try:
            await self._fan_out.start(self.deliver, self.lost)
            port = sockets.listen(host, port, shared=shared)
        except BaseException:
            sockets.close()
            await self._fan_out.close()
            raise
        self._runner = asyncio.create_task(self._run(), name="gateway")
        await self._ready.wait()
        return port

    async def drain(self, per_s: float, *, code: int = CloseCode.RESTARTING) -> None:
        """Ask all clients to come again elsewhere, so many a second; returns when all are gone."""
        if not per_s > 0:
            raise Invalid("per_s must be over 0: so many clients a second are asked to go", code="bad_pace")
        if self._sockets is None:
            return
        self.draining = True
        self._sockets.stop_listening()
        at, due = monotonic(), 1.0
        while self._roster:
            now = monotonic()
            # What was left undone while the machine was busy is not made up for: that would be the stampede.
            due = min(due + (now - at) * per_s, max(1.0, per_s * _BURST_S))
            at = now
            due -= self.shed(int(due), code=code, why="drain")
            await asyncio.sleep(min(0.1, max(_PACE_S, 1 / per_s)))

    def shed(self, count: int, *, code: int = CloseCode.TRY_LATER, why: str = "rebalance") -> int:
        """Ask so many clients to come again elsewhere, the youngest first: they have least to lose; how many."""
        if count <= 0:
            return 0
        open_ = (connection for connection in self._roster.youngest() if connection.phase is Phase.OPEN)
        chosen = tuple(islice(open_, count))
        for connection in chosen:
            self._ending.close(connection, code, self._hint(), why)
        return len(chosen)

    async def stop(self) -> None:
        """Close everything at once; nothing is told but a close frame. Again does nothing."""
        if self._sockets is None:
            return
        self.draining = True
        for connection in self._roster:
            self._ending.close(connection, CloseCode.GOING_AWAY, self._hint(), "stop")
        self._over.set()
        try:
            if self._runner is not None:
                await self._runner
        finally:
            for connection in self._roster:
                self._ending.forget(connection, "stop")
            self._sockets.close()
            self._sockets = None
            _connections.set(0)
            self._hearing.tell_received()
            await self._fan_out.close()

    def __len__(self) -> int:
        return len(self._roster)

    @property
    def alone(self) -> bool:
        """Whether what is published reaches this process's connections and no others."""
        return isinstance(self._fan_out, InProcess)

    def connections(self, *, user: str | None = None, id: int | None = None, limit: int = 100) -> list[Shown]:  # noqa: A002
        """Some of them, all of a user, or one."""
        found: Iterable[Connection] = self._roster.of_user(user) if user is not None else self._roster
        if id is not None:
            one = self._roster.get(id)
            found = () if one is None else (one,)
        shown: list[Shown] = []
        for connection in found:
            if len(shown) == limit:
                break
            shown.append(show(connection, self._now))
        return shown

    def kick(self, *, user: str | None = None, id: int | None = None, reason: str = "") -> int:  # noqa: A002
        """End connections, of a user or one; how many."""
        one = self._roster.get(id) if id is not None else None
        found = self._roster.of_user(user) if user is not None else () if one is None else (one,)
        ended = 0
        for connection in found:
            ended += connection.phase in (Phase.HANDSHAKE, Phase.OPEN)
            self._doorway.refuse(connection, Refused(403, reason or "closed by an operator"))
            self._ending.close(connection, KICKED, reason or "closed by an operator", "kicked")
        return ended

    # for who has something to say

    async def publish(self, topic: str, data: bytes, *, slow: Slow = Slow.RESUME, keep: bool = True) -> Offset | None:
        """Tell all members of a topic, in all processes. `data` is JSON; `keep` it for those who come back."""
        return await self._fan_out.publish(topic, data, slow=slow, keep=keep)

    def present(self, topic: str) -> int:
        """How many connections of this process are members."""
        return self._topics.count(topic)

    def who(self, topic: str) -> frozenset[str]:
        """Users with a connection of this process that is a member."""
        return self._presence.users(topic)

    def deliver(self, published: Published) -> None:
        """Tell this process's members. For the fan-out."""
        self._membership.overhear(published)
        self._presence.heard(published)
        self._tell_here(published.topic, published.data, published.offset, published.slow)

    def _tell_here(self, topic: str, data: bytes, offset: Offset | None = None, slow: Slow = Slow.RESUME) -> None:
        """Tell this process's members, and nobody else."""
        if self._topics.count(topic):
            self._broadcasts.tell(topic, encode_text(messages.message(topic, offset, data)), slow)

    def lost(self, topic: str) -> None:
        """Tell this process's members that some of it is lost: they ask by their offsets. For the fan-out."""
        if self._topics.count(topic):
            self._broadcasts.tell(topic, encode_text(messages.lost(topic)), Slow.LATEST)

    # what sockets tell

    def accepted(self, fd: int, ip: str) -> Connection | None:
        why = self._roster.refuses(ip)
        if why:
            _refused.inc(1, why)
            return None  # before anything was read, there is no language in which to say why
        self._serial += 1
        connection = Connection(fd, self._serial, ip, self._now, self.settings.patience)
        self._roster.add(connection)
        self._wheel.put(connection)
        return connection

    def writable(self, connection: Connection) -> None:
        self._writing.go_on(connection)

    def gone(self, connection: Connection, reason: str) -> None:
        self._ending.forget(connection, reason)

    def full(self) -> None:
        _refused.inc(1, "no_descriptors")
        _log.error("no_descriptors", connections=len(self._roster), remedy="raise the file limit, or add processes")

    # what the doorway tells

    def tick_now(self) -> int:
        """The tick it is."""
        return self._now

    def opened(self, connection: Connection, answer: bytes, expires: int) -> None:
        """A session begins."""
        self._roster.settle(connection, Phase.OPEN)
        connection.begun = NEVER
        connection.expires = expires
        self._writing.write(connection, answer)
        self._look_again(connection)

    def turned_away(self, connection: Connection, answer: bytes) -> None:
        """None begins."""
        self._ending.turn_away(connection, answer)

    # messages

    def _binary(self, connection: Connection, _: bytes) -> None:
        self._ending.close(connection, CloseCode.UNSUPPORTED, "send text: JSON", "binary")

    # writing

    def _send(self, connection: Connection, text: bytes, topic: str | None = None) -> None:
        """What gives way when the peer is slow: history that was asked for can be asked for again, answers cannot."""
        if connection.phase is Phase.OPEN:
            slow = Slow.CLOSE if topic is None else Slow.RESUME
            self._writing.write(connection, encode_text(text), topic, slow)

    def _send_all(self, connection: Connection, texts: list[bytes]) -> None:
        """Answers, in one write."""
        if connection.phase is not _OPEN:
            return
        if len(texts) == 1:
            self._writing.write(connection, encode_text(texts[0]))
        elif connection.plain:
            for text in texts:
                self._writing.write(connection, encode_text(text))
        else:
            self._writing.write(connection, b"".join(map(encode_text, texts)))

    def spawn(self, work: Coroutine[None, None, None]) -> bool:
        """Run it as long as the gateway does; False when that is over."""
        return self._new_task(work) is not None

    def _new_task(self, work: Coroutine[None, None, None], context: Context | None = None) -> asyncio.Task[None] | None:
        if self._tasks is None or self._over.is_set():
            work.close()
            return None
        return self._tasks.create_task(_alone(work), context=context)

    # time

    async def _run(self) -> None:
        """Tick, and hold the tasks, until it is over; then nothing is waited for."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._ready.set()
                started = loop.time()
                while not self._over.is_set():
                    try:
                        async with asyncio.timeout_at(started + (self._now + 1) * TICK_S):
                            await self._over.wait()
                    except TimeoutError:
                        now = int((loop.time() - started) / TICK_S)
                        if now > self._now + 1:  # we were not there: what peers said meanwhile is heard first
                            for _ in range(2 + len(self._roster) // EVENTS_MAX):
                                await asyncio.sleep(0)
                        self.tick(now)
                await asyncio.sleep(0)  # what was spawned last has begun then, and can be cancelled in good order
                raise _Over
        except* _Over:
            pass
        finally:
            self._tasks = None

    def tick(self, now: int) -> None:
        """Let time pass up to tick `now`; what is due is done."""
        self._now = now
        self._hearing.tick(now)
        for connection in self._wheel.advance(now):
            try:
                self._due(connection)
            except Exception:  # noqa: BLE001 (time must go on for all the others)
                _log.exception("connection_failed", connection=connection.serial)
                self._ending.forget(connection, "fault")
        self._end_sessions()
        self._presence.tick(now)
        if self.settings.memory_bytes_max:
            self.crowded = resident_bytes() > self.settings.memory_bytes_max
            if self.crowded:
                self._writing.relieve(self._writing.waiting_bytes // 2)
        _connections.set(len(self._roster))

    def _end_sessions(self) -> None:
        """At most one look at all connections a tick, and only when somebody logged out."""
        ended = self._ended
        if ended is None or ended.changes == self._ended_seen:
            return
        self._ended_seen = ended.changes
        for connection in self._roster:
            if connection.caller is not None and connection.caller.session in ended:
                self._ending.close(connection, SESSION_OVER, "the session has ended; log in again", "session ended")

    def _due(self, connection: Connection) -> None:
        patience = self.settings.patience
        step = next_step(connection, self._now, patience)
        match step.action:
            case "ping":
                connection.pinged = self._now
                self._writing.write(connection, _PING)
            case "refuse":
                self._doorway.refuse(connection, Refused(408, step.reason))
            case "close":
                self._ending.close(connection, step.code, step.reason, step.reason)
            case "abort":
                self._ending.forget(connection, step.reason)
            case _:
                pass
        if connection.phase is Phase.OPEN:
            self._look_again(connection)

    def _look_again(self, connection: Connection) -> None:
        connection.deadline = next_deadline(connection, self.settings.patience, self._random.random())
        self._wheel.put(connection)

    def hint_s(self) -> float:
        """When to come again, by chance so that not all come at once."""
        return self._random.random() * self.settings.reconnect_s

    def _hint(self) -> str:
        """Clients read the number."""
        return f"reconnect in {self.hint_s():.1f} s"
