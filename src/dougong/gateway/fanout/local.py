"""The fan-out of one machine: processes that share messages through a hub on a Unix socket."""

from __future__ import annotations

import asyncio
import random as _random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from dougong.errors import Conflict, DeadlineExceeded, Error, Overloaded, Unavailable
from dougong.gateway._metrics import fan_out_connected, fan_out_interrupted, fan_out_lost
from dougong.gateway.fanout._protocol import Deliver, Lost, Published, check_size
from dougong.gateway.fanout.hub import Hub, socket_path
from dougong.gateway.fanout.line import Gone, Line
from dougong.gateway.fanout.wire import Joined, Leave, Publish, Since
from dougong.gateway.history import HistoryPolicy, Missed, Offset
from dougong.gateway.outbox import Slow
from dougong.telemetry import get_logger

__all__ = ["LocalFanOut"]

_log = get_logger("dougong.gateway")
_BACK_OFF_S = (0.01, 1.0)


class LocalFanOut:
    """`LocalFanOut(folder)`: all that name the same folder share their messages.

    - `serves`: this process becomes the hub when there is none. The first to ask is it, and when it goes, another; what
      it takes is some time of that process's loop. Where there is much to carry, processes of their own are the hub
      (`Hub(folder)`: one, and a second that stands by) and the rest say `serves=False`.
    - `timeout_s`: how long `publish`, `join` and `since` wait for a hub, and a hub may take to answer.
    """

    def __init__(
        self, folder: Path, policy: HistoryPolicy | None = None, *, serves: bool = True, timeout_s: float = 5.0
    ) -> None:
        self._folder = folder
        self._policy = policy
        self._serves = serves
        self._timeout_s = timeout_s
        self._path = socket_path(folder)
        self._deliver: Deliver
        self._lost: Lost
        self._hub: Hub | None = None
        self._line: Line | None = None
        self._why = "no hub was found yet"
        self._wanting: list[asyncio.Future[None]] = []
        """Who waits for a connection, or for room to publish."""
        self._here: dict[str, Offset] = {}
        """Topics that are joined, and the last offset of each that came here."""
        self._joining: dict[str, list[asyncio.Future[None]]] = {}
        self._runner: asyncio.Task[None] | None = None

    async def start(self, deliver: Deliver, lost: Lost) -> None:
        self._deliver = deliver
        self._lost = lost
        self._runner = asyncio.create_task(self._run(), name="fan-out")

    async def close(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.cancel()
            await asyncio.wait([runner])
        if self._line is not None:
            self._line.cut()
        if self._hub is not None:
            await self._hub.stop()
            self._hub = None

    async def join(self, topic: str) -> Offset:
        check_size(topic, b"")
        if topic in self._here:
            return self._here[topic]
        async with self._patience(f"join {topic}"):
            while topic not in self._here:
                line = await self._connected()
                future = asyncio.get_running_loop().create_future()
                self._joining.setdefault(topic, []).append(future)
                if len(self._joining[topic]) == 1:
                    line.join(topic)
                try:
                    await future
                except Gone:
                    continue
        return self._here[topic]

    async def leave(self, topic: str) -> None:
        known = self._here.pop(topic, None) is not None
        if self._line is not None and (known or topic in self._joining):
            self._line.tell(Leave(topic), len(topic))
            if topic in self._joining:  # who is still waiting to join has to be in at the end
                self._line.join(topic)

    async def publish(self, topic: str, data: bytes, *, slow: Slow, keep: bool) -> Offset | None:
        check_size(topic, data)
        line = self._line
        if line is None or line.full:
            async with self._patience(f"publish to {topic}"):
                line = await self._connected(room=True)
        try:
            return await line.publish(Publish(topic, data, slow, keep), len(topic) + len(data))
        except Gone:
            raise DeadlineExceeded(
                f"the hub of {self._folder} went while a message for {topic} was published: it may or may not arrive",
                code="publish_unknown",
            ) from None

    async def since(self, topic: str, offset: Offset) -> Missed:
        if self._here.get(topic) == offset:  # nothing came here since, and what comes is delivered
            return Missed([], offset, complete=True)
        async with self._patience(f"ask what {topic} missed"):
            while True:
                line = await self._connected()
                try:
                    return await line.since(Since(topic, offset))
                except Gone:
                    continue

    # what the connection tells

    def published(self, message: Published) -> None:
        topic = message.topic
        if topic in self._here:
            if message.offset is not None:
                self._here[topic] = message.offset
            self._deliver(message)

    def joined(self, line: Line, joined: Joined) -> None:
        topic = joined.topic
        if topic in self._here:  # again, after the connection was lost
            self._here[topic] = joined.now
            if not joined.complete:
                fan_out_lost.inc()
                self._lost(topic)
        waiting = self._joining.pop(topic, ())
        for future in waiting:
            if not future.done():
                self._here[topic] = joined.now
                future.set_result(None)
        if topic not in self._here:  # who asked has given up
            line.tell(Leave(topic), len(topic))

    def gone(self, line: Line) -> None:
        if self._line is not line:
            return
        self._line = None
        self._why = "the connection to the hub was lost"
        fan_out_connected.set(0)
        fan_out_interrupted.inc(len(self._here))
        joining, self._joining = self._joining, {}
        for future in (future for futures in joining.values() for future in futures):
            if not future.done():
                future.set_exception(Gone())

    def has_room(self) -> None:
        wanting, self._wanting = self._wanting, []
        for future in wanting:
            if not future.done():
                future.set_result(None)

    # the connection

    @asynccontextmanager
    async def _patience(self, what: str) -> AsyncGenerator[None]:
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError:
            if self._line is not None and self._line.full:
                raise Overloaded(
                    f"cannot {what}: the hub has yet to take what this process published before",
                    code="fan_out_full",
                    retry_after_s=1.0,
                ) from None
            raise Unavailable(
                f"cannot {what}: {self._why}; keep a process running that serves {self._folder}",
                code="fan_out_unavailable",
                retry_after_s=1.0,
            ) from None

    async def _connected(self, *, room: bool = False) -> Line:
        while self._line is None or (room and self._line.full):
            future = asyncio.get_running_loop().create_future()
            self._wanting.append(future)
            await future
        return self._line

    async def _run(self) -> None:
        """Be connected, and be the hub when nobody is; again when it is over."""
        low, high = _BACK_OFF_S
        back_off = low
        while True:
            line = await self._connect()
            if line is None or line.over.is_set():
                await asyncio.sleep(back_off * (0.5 + _random.random()))
                back_off = min(high, back_off * 2)
                continue
            back_off = low
            self._line = line
            fan_out_connected.set(1)
            for topic, after in self._here.items():
                line.join(topic, after)
            self.has_room()
            while not line.over.is_set():
                try:
                    async with asyncio.timeout(self._timeout_s / 2):
                        await line.over.wait()
                except TimeoutError:
                    line.check(self._timeout_s)

    async def _connect(self) -> Line | None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                _, line = await loop.create_unix_connection(lambda: Line(self), self._path)
                return line
        except (OSError, TimeoutError) as error:
            self._why = f"nobody answers at {self._path} ({str(error) or 'in time'})"
        if not self._serves or self._hub is not None:
            return None
        hub = Hub(self._folder, self._policy)
        try:
            await hub.start()
        except Conflict as error:
            self._why = f"{error.message} and does not answer; end it if it hangs"
            return None
        except (Error, OSError) as error:
            self._why = str(error)
            _log.error("hub_cannot_start", error=self._why)
            return None
        self._hub = hub
        return await self._connect()
