"""The fan-out of several machines: through a Redis (7 or later, or what speaks like it; one, not a cluster).

A channel per topic, so that a process gets what its own members are told and nothing else; history is kept by Redis,
numbered there, so offsets are the same everywhere. What was missed while the connection was lost is fetched.
"""

from __future__ import annotations

import asyncio
import random as _random
from collections import Counter, deque
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from dougong.config import Secret
from dougong.errors import DeadlineExceeded, Invalid, Unavailable
from dougong.gateway._metrics import fan_out_connected, fan_out_interrupted, fan_out_lost
from dougong.gateway.fanout._protocol import Deliver, Lost, Published, check_size
from dougong.gateway.fanout.redis_batches import Batches, Fetch, Joined, Publish
from dougong.gateway.fanout.redis_scripts import fetch_script, publish_script
from dougong.gateway.history import HistoryPolicy, Missed, Offset
from dougong.gateway.outbox import Slow
from dougong.telemetry import get_logger

if TYPE_CHECKING:
    from dougong.gateway.fanout.redis_link import RedisLink

__all__ = ["RedisFanOut"]

_log = get_logger("dougong.gateway")
_BACK_OFF_S = (0.05, 1.0)
_TOPICS_PER_COMMAND = 500
_LETTERS = {Slow.CLOSE: b"C", Slow.DROP_OLDEST: b"D", Slow.LATEST: b"L", Slow.RESUME: b"R"}
_SLOW = {letter[0]: slow for slow, letter in _LETTERS.items()}
_NUMBER, _HEAD = 16, 18
"""Characters of the number, and of all that stands before the data."""


class RedisFanOut:
    """`RedisFanOut(Secret("redis://..."), prefix="shop")`; gateways and publishers of one system have the same prefix.

    - `policy`: `messages_max` and `age_s` (since a topic's last message) count here; Redis's memory bounds the rest.
    - `counter_s`: how long after its last message a topic's count is known. A client that was connected to a silent
      topic within that time is not told to load its state anew.
    - `timeout_s`: how long anything waits for Redis.

    Redis must not throw keys away when it is full (`maxmemory-policy noeviction`); where it does, silent topics count
    as incomplete for whoever comes back.
    """

    def __init__(
        self,
        url: Secret,
        policy: HistoryPolicy | None = None,
        *,
        prefix: str = "dougong",
        counter_s: float = 86_400.0,
        timeout_s: float = 2.0,
        tls_ca: Path | None = None,
    ) -> None:
        try:
            from dougong.gateway.fanout.redis_link import where
        except ImportError as error:
            raise Invalid(
                f"the driver for Redis is not installed ({error}); pip install 'dougong[redis]'", code="driver_missing"
            ) from None
        self._where = where(url)
        self._url = url
        self._policy = policy if policy is not None else HistoryPolicy()
        self._prefix = prefix
        self._counter_ms = int(max(counter_s, self._policy.age_s) * 1000)
        self._timeout_s = timeout_s
        self._tls_ca = tls_ca
        self._deliver: Deliver
        self._lost: Lost
        self._here: dict[str, Joined] = {}
        self._changes: deque[tuple[str, str]] = deque()
        """SUBSCRIBE and UNSUBSCRIBE that are still to be sent, with the topic."""
        self._changed = asyncio.Event()
        self._subscribing: Counter[str] = Counter()
        """SUBSCRIBE that are not confirmed."""
        self._publishes: Batches[Publish] = Batches()
        self._fetches: Batches[Fetch] = Batches()
        self._life = ""
        self._sure_ms = 0
        self._connected = False
        self._heard_at = 0.0
        self._why = "not connected yet"
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

    async def join(self, topic: str) -> Offset:
        check_size(topic, b"")
        joined = self._here.get(topic)
        if joined is None:
            joined = self._here[topic] = Joined()
            self._change("SUBSCRIBE", topic)
        if not joined.epoch:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            joined.waiting.append(future)
            try:
                async with self._patience(f"join {topic}"):
                    await future
            except BaseException:
                if future in joined.waiting:
                    joined.waiting.remove(future)
                    if not joined.waiting and self._here.get(topic) is joined:
                        await self.leave(topic)
                raise
        return Offset(joined.epoch, joined.number)

    async def leave(self, topic: str) -> None:
        joined = self._here.get(topic)
        if joined is None:
            return
        if joined.waiting:  # who is still waiting to join has to be in at the end
            return
        del self._here[topic]
        self._change("UNSUBSCRIBE", topic)

    async def publish(self, topic: str, data: bytes, *, slow: Slow, keep: bool) -> Offset | None:
        check_size(topic, data)
        item = Publish(topic, data, slow, keep=keep)
        self._publishes.add(item)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await item.future
        except TimeoutError:
            raise self._unknown(topic) if item.sent else self._unavailable(f"publish to {topic}") from None

    async def since(self, topic: str, offset: Offset) -> Missed:
        joined = self._here.get(topic)
        if joined is not None and joined.epoch == offset.epoch and joined.number == offset.number:
            return Missed([], offset, complete=True)  # nothing came here since, and what comes is delivered
        future: asyncio.Future[Missed] = asyncio.get_running_loop().create_future()
        async with self._patience(f"ask what {topic} missed"):
            self._fetches.add(Fetch(topic, offset, future=future))
            return await future

    # what goes wrong

    @asynccontextmanager
    async def _patience(self, what: str) -> AsyncGenerator[None]:
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError:
            raise self._unavailable(what) from None

    def _unavailable(self, what: str) -> Unavailable:
        return Unavailable(
            f"cannot {what}: Redis at {self._where} does not answer ({self._why}); start it, or see the network",
            code="fan_out_unavailable",
            retry_after_s=1.0,
        )

    def _unknown(self, topic: str) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"Redis at {self._where} did not say what became of a message for {topic}: it may or may not arrive",
            code="publish_unknown",
        )

    # the connection

    async def _run(self) -> None:
        """Be connected; again when it breaks."""
        from dougong.gateway.fanout.redis_link import Broken, Refused

        loop = asyncio.get_running_loop()
        low, high = _BACK_OFF_S
        back_off = low
        while True:
            began = loop.time()
            try:
                await self._session()
            except* (Broken, Refused) as group:
                self._why = str(group.exceptions[0])
            except* Exception as group:  # noqa: BLE001 (a bug ends no fan-out: what was missed is fetched)
                self._why = f"a fault of ours: {group.exceptions[0]!r}"
                _log.exception("redis_session_failed")
            if self._connected:
                self._connected = False
                fan_out_connected.set(0)
                fan_out_interrupted.inc(len(self._here))
                _log.warning("redis_lost", redis=self._where, error=self._why, topics=len(self._here))
            back_off = low if loop.time() - began > high else min(high, back_off * 2)
            await asyncio.sleep(back_off * (0.5 + _random.random()))

    async def _session(self) -> None:
        from dougong.gateway.fanout.redis_link import Broken, RedisLink

        async with AsyncExitStack() as stack:
            links: list[RedisLink] = []
            lives: set[str] = set()
            evicts = False
            for _ in range(3):
                link = RedisLink(self._url, tls_ca=self._tls_ca, timeout_s=self._timeout_s)
                stack.push_async_callback(link.close)
                life, evicts = await link.open()
                links.append(link)
                lives.add(life)
            if len(lives) > 1:
                raise Broken("its name leads to several servers at the moment")
            hearing, telling, asking = links
            (self._life,) = lives
            publish = cast(bytes, await telling.ask("SCRIPT", "LOAD", publish_script(self._life)))
            fetch = cast(bytes, await asking.ask("SCRIPT", "LOAD", fetch_script(self._life)))
            if evicts:
                _log.warning("redis_evicts", redis=self._where, remedy="set maxmemory-policy noeviction")
            self._sure_ms = 0 if evicts else self._counter_ms
            self._begin_again()
            self._connected = True
            fan_out_connected.set(1)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._hear(hearing))
                tasks.create_task(self._subscribe(hearing))
                tasks.create_task(self._watch(hearing))
                tasks.create_task(self._tell(telling, publish))
                tasks.create_task(self._ask(asking, fetch))

    def _begin_again(self) -> None:
        """Join all topics anew; what they missed is fetched as soon as Redis confirms it."""
        self._subscribing.clear()
        self._changes.clear()
        for fetch in self._fetches.take_all():
            if fetch.future is not None:
                self._fetches.add(fetch)
        for topic, joined in self._here.items():
            joined.settled = False
            joined.seen = 0
            self._change("SUBSCRIBE", topic)

    def _change(self, command: str, topic: str) -> None:
        self._changes.append((command, topic))
        self._changed.set()

    async def _subscribe(self, link: RedisLink) -> None:
        while True:
            while not self._changes:
                self._changed.clear()
                await self._changed.wait()
            command, topics = self._changes[0][0], list[str]()
            while self._changes and self._changes[0][0] == command and len(topics) < _TOPICS_PER_COMMAND:
                topics.append(self._changes.popleft()[1])
            if command == "SUBSCRIBE":
                self._subscribing.update(topics)
            await link.tell(command, *(f"{self._prefix}:{topic}" for topic in topics))

    async def _watch(self, link: RedisLink) -> None:
        """A connection can be dead without anybody saying so."""
        from dougong.gateway.fanout.redis_link import Broken

        loop = asyncio.get_running_loop()
        self._heard_at = loop.time()
        while True:
            await link.tell("PING")
            await asyncio.sleep(self._timeout_s)
            if loop.time() - self._heard_at > 2 * self._timeout_s:
                raise Broken("it is silent")

    async def _hear(self, link: RedisLink) -> None:
        loop, skip = asyncio.get_running_loop(), len(self._prefix) + 1
        while True:
            kind, channel, *rest = await link.hear()
            self._heard_at = loop.time()
            if kind == b"message":
                self._came(cast(bytes, channel).decode()[skip:], cast(bytes, rest[0]))
            elif kind == b"subscribe":
                self._subscribed(cast(bytes, channel).decode()[skip:])

    def _came(self, topic: str, message: bytes) -> None:
        joined = self._here.get(topic)
        if joined is None:
            return
        number, slow = int(message[:_NUMBER]), _SLOW.get(message[_NUMBER + 1], Slow.RESUME)
        if not number:
            self._deliver(Published(topic, message[_HEAD:], None, slow))
        elif not joined.settled:
            joined.seen = max(joined.seen, number)
        elif number > joined.number:
            joined.number = number
            self._deliver(Published(topic, message[_HEAD:], Offset(joined.epoch, number), slow))

    def _subscribed(self, topic: str) -> None:
        left = self._subscribing[topic] - 1
        if left > 0:  # the last one counts: it was left between them
            self._subscribing[topic] = left
            return
        del self._subscribing[topic]
        joined = self._here.get(topic)
        if joined is not None:
            self._catch_up(topic, joined)

    # what was missed

    def _catch_up(self, topic: str, joined: Joined) -> None:
        after = Offset(joined.epoch, joined.number) if joined.epoch else None
        self._fetches.add(Fetch(topic, after, joined=joined))

    def _caught_up(self, topic: str, joined: Joined, missed: Missed) -> None:
        if self._here.get(topic) is not joined:
            return
        again = bool(joined.epoch)
        if again and missed.complete:
            for number, data in missed.messages:
                joined.number = number
                self._deliver(Published(topic, data, Offset(joined.epoch, number), Slow.RESUME))
            if joined.seen > joined.number:  # while it was under way
                self._catch_up(topic, joined)
                return
        else:
            joined.epoch = missed.now.epoch
            joined.number = max(missed.now.number, joined.seen)
        joined.settled = True
        if again and not missed.complete:
            fan_out_lost.inc()
            self._lost(topic)
        waiting, joined.waiting = joined.waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def _ask(self, link: RedisLink, script: bytes) -> None:
        while True:
            batch = [item for item in await self._fetches.take() if item.future is None or not item.future.done()]
            if not batch:
                continue
            keys = [f"{self._key}:clock", f"{self._key}:begun"]
            asked: list[int | str] = [self._sure_ms]
            for item in batch:
                keys += self._keys(item.topic)
                same = item.after is not None and item.after.epoch == self._life
                asked.append(item.after.number if same and item.after is not None else "")
            try:
                answers = await link.ask("EVALSHA", script, len(keys), *keys, *asked)
            except BaseException:
                self._fetches.put_back(batch)
                raise
            for item, answer in zip(batch, cast(list[list[bytes]], answers), strict=True):
                self._fetched(item, answer)

    def _fetched(self, item: Fetch, answer: list[bytes]) -> None:
        whole, now, *messages = answer
        complete = bool(whole) and (item.after is None or item.after.epoch == self._life)
        missed = Missed(
            [(int(message[:_NUMBER]), message[_HEAD:]) for message in messages],
            Offset(self._life, int(now)),
            complete=complete,
        )
        if item.joined is not None:
            self._caught_up(item.topic, item.joined, missed)
        elif item.future is not None and not item.future.done():
            item.future.set_result(missed)

    # what is said

    async def _tell(self, link: RedisLink, script: bytes) -> None:
        from dougong.gateway.fanout.redis_link import Broken, Refused

        head = (self._policy.messages_max, int(self._policy.age_s * 1000), self._counter_ms)
        while True:
            batch = [item for item in await self._publishes.take() if not item.future.done()]
            if not batch:
                continue
            keys = [f"{self._key}:clock"]
            told: list[str | bytes] = []
            for item in batch:
                keys += self._keys(item.topic) if item.keep else ("", "")
                told += (f"{self._prefix}:{item.topic}", _LETTERS[item.slow], item.data)
                item.sent = True
            try:
                numbers = await link.ask("EVALSHA", script, len(keys), *keys, *head, *told)
            except Refused as refused:
                for item in batch:
                    item.sent = False
                if "NOSCRIPT" in str(refused) or "READONLY" in str(refused):
                    self._publishes.put_back(batch)  # another server has its place: once more, there
                    raise
                self._fail(batch, str(refused))
                continue
            except (Broken, asyncio.CancelledError):
                for item in batch:
                    if not item.future.done():
                        item.future.set_exception(self._unknown(item.topic))
                raise
            for item, number in zip(batch, cast(list[bytes], numbers), strict=True):
                if not item.future.done():
                    item.future.set_result(Offset(self._life, int(number)) if item.keep else None)

    def _fail(self, batch: list[Publish], why: str) -> None:
        for item in batch:
            if not item.future.done():
                item.future.set_exception(
                    Unavailable(
                        f"Redis at {self._where} takes no message for {item.topic}: {why}; "
                        "give it more memory, or keep less",
                        code="fan_out_refused",
                        retry_after_s=1.0,
                    )
                )

    @property
    def _key(self) -> str:
        return f"{self._prefix}:{self._life}"

    def _keys(self, topic: str) -> tuple[str, str]:
        return f"{self._key}:n:{topic}", f"{self._key}:m:{topic}"
