"""A client of a gateway that stays: it comes again by itself, and misses nothing that can still be had.

    async with LiveClient("ws://127.0.0.1:8700/live", token=log_in) as live:
        orders = await live.subscribe("user:7")
        async for told in orders:
            show(told.data) if isinstance(told, Told) else await load_again()

One task reads the connection; whoever subscribes or calls waits for what it finds. When the connection ends, calls
under way fail (nobody knows what became of them), and subscriptions go on by offset in the next connection.
"""

from __future__ import annotations

import asyncio
import random as _random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

import msgspec

from dougong.errors import DeadlineExceeded, Error, Invalid, Overloaded, Unavailable
from dougong.gateway.following import Follower, Gap, Stage, Told
from dougong.gateway.greeting import read_address
from dougong.gateway.history import Offset
from dougong.gateway.link import Link, open_link
from dougong.gateway.messages import Call, Subscribe, Unsubscribe
from dougong.gateway.returning import Pauses, Return, after_close, after_error
from dougong.gateway.saying import Answered, Lost, Refusal, Subscribed, Tell, read_said
from dougong.telemetry import get_logger

__all__ = ["ClientSettings", "LiveClient", "Subscription", "Token"]

_log = get_logger("dougong.gateway.client")
_encode = msgspec.json.Encoder().encode
_CLOSE_S = 2.0

Token = Callable[[bool], Awaitable[str]]
"""The token to connect with. True: the one it gave last is not believed any more, get another."""


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits and patience of a client."""

    connect_s: float = 10.0
    silent_s: float = 60.0
    """A connection on which nothing came for so long is dead: a gateway asks twice as often."""
    message_bytes_max: int = 2 * 1024 * 1024
    """Over what may be published: a message that is too large would be sent again in the next connection, and so on."""
    queue_max: int = 1000
    """Messages that wait to be read, of each topic; what is over it is asked for again when there is room."""
    calls_max: int = 1000
    pauses: Pauses = Pauses()


class Subscription:
    """What a topic tells: `async for told in subscription`, `Told` or `Gap`. One reader. Ends when it is closed; raises
    the reason when the client cannot go on."""

    def __init__(self, client: LiveClient, follower: Follower) -> None:
        self._client = client
        self._follower = follower
        self._news = asyncio.Event()
        self._ended = False
        self._error: Error | None = None
        self._again: asyncio.TimerHandle | None = None
        self.subscribed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.offset: Offset | None = follower.last
        """Of what was read last: a later subscription may begin there."""

    @property
    def topic(self) -> str:
        return self._follower.topic

    async def __aiter__(self) -> AsyncGenerator[Told | Gap]:
        queue = self._follower.queue
        while True:
            while queue:
                told = queue.popleft()
                if isinstance(told, Told) and told.offset is not None:
                    self.offset = told.offset
                if self._follower.wants_more:
                    self._client._ask(self)
                yield told
            if self._error is not None:
                raise self._error
            if self._ended:
                return
            self._news.clear()
            await self._news.wait()

    async def close(self) -> None:
        """Want no more of it. What was not read is dropped."""
        self._follower.queue.clear()
        self._client._leave(self)

    def _end(self, error: Error | None = None) -> None:
        self._ended = True
        self._error = self._error or error
        self._rest(None)
        if not self.subscribed.done():
            self.subscribed.set_exception(error or Unavailable("the client was closed", code="closed"))
            self.subscribed.exception()  # whoever waits for it has it; if nobody does, that is no mistake
        self._news.set()

    def _rest(self, timer: asyncio.TimerHandle | None) -> None:
        if self._again is not None:
            self._again.cancel()
        self._again = timer


class LiveClient:
    """`async with LiveClient(url)`: connects, and connects again, until the block is left.

    - `token`: sent as `Authorization: Bearer …`, asked for before each connection.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token | None = None,
        settings: ClientSettings | None = None,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._address = read_address(url)
        self._token = token
        self._settings = settings if settings is not None else ClientSettings()
        self._random = random
        self._topics: dict[str, Subscription] = {}
        self._asked: dict[int, Subscription] = {}
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._serial = 0
        self._link: Link | None = None
        self._changed = asyncio.Event()
        """The connection came about, or nothing will."""
        self._error: Error | None = None
        self._leaving = False
        self._task: asyncio.Task[None] | None = None
        self.connections = 0
        """How many there were."""

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="live-client")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leaving = True
        task = self._task
        assert task is not None
        if self._link is not None:
            self._link.close()
            await asyncio.wait({task}, timeout=_CLOSE_S)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    @property
    def connected(self) -> bool:
        return self._link is not None

    async def wait_connected(self, timeout_s: float = 10.0) -> None:
        """Until there is a connection. Raises `DeadlineExceeded`, or why there will be none."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._connection()
        except TimeoutError:
            raise DeadlineExceeded(
                f"no connection to {self._address.authority} within {timeout_s:g} s", code="not_connected"
            ) from None

    async def subscribe(self, topic: str, *, offset: Offset | None = None, timeout_s: float = 10.0) -> Subscription:
        """Follow a topic, from `offset` on or from now; returns once the gateway has agreed, so that a state that is
        loaded after it misses nothing. Raises what the gateway refused it with."""
        if self._error is not None:
            raise self._error
        if topic in self._topics:
            raise Invalid(f"{topic} is followed already; one reader each", code="subscribed")
        subscription = Subscription(self, Follower(topic, offset=offset, queue_max=self._settings.queue_max))
        self._topics[topic] = subscription
        try:
            if self._link is not None:
                self._ask(subscription)
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(subscription.subscribed)
        except TimeoutError:
            self._leave(subscription)
            raise DeadlineExceeded(f"{topic}: no answer within {timeout_s:g} s", code="not_subscribed") from None
        except BaseException:
            self._leave(subscription)
            raise
        return subscription

    async def call(self, method: str, data: bytes = b"{}", *, timeout_s: float = 10.0) -> bytes:
        """Ask a service through the gateway: JSON in, JSON out. Raises what it was refused with; `Unavailable`
        (`connection_lost`) and `DeadlineExceeded` leave open whether it was done."""
        if len(self._calls) >= self._settings.calls_max:
            raise Overloaded(f"over {self._settings.calls_max} calls at once", code="too_many_calls", retry_after_s=0.1)
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        id_ = self._next_id()
        try:
            async with asyncio.timeout_at(until):
                link = await self._connection()
                answered: asyncio.Future[bytes] = loop.create_future()
                self._calls[id_] = answered
                left_s = max(0.001, until - loop.time())
                link.send(_encode(Call(id=id_, method=method, data=msgspec.Raw(data), timeout_s=left_s)))
                return await answered
        except TimeoutError:
            raise DeadlineExceeded(
                f"{method}: no answer within {timeout_s:g} s; the outcome is unknown", code="deadline_exceeded"
            ) from None
        finally:
            self._calls.pop(id_, None)

    # the connection

    async def _run(self) -> None:
        error: Error | None = None
        try:
            error = await self._stay()
        finally:
            # Also when the task is cancelled, or has a fault: nobody waits for what will not come.
            self._error = error or Unavailable("the client was closed", code="closed")
            self._changed.set()
            for subscription in tuple(self._topics.values()):
                subscription._end(None if error is None and self._leaving else self._error)
            self._topics.clear()

    async def _stay(self) -> Error | None:
        """Connect again and again; why not any more."""
        loop = asyncio.get_running_loop()
        pauses, tries, renew = self._settings.pauses, 0, False
        while not self._leaving:
            try:
                link = await self._open(renew)
            except Error as error:
                next_ = after_error(error, tries, self._random(), pauses, renewed=renew or self._token is None)
                _log.info("gateway_refused", error=str(error), again_in_s=round(next_.pause_s, 1))
                tries += 1
            else:
                began = loop.time()
                await self._use(link)
                tries = 0 if loop.time() - began >= pauses.steady_s else tries
                next_ = after_close(link.code, link.reason, tries, self._random(), pauses)
                tries += 1
            if next_.error is not None:
                return next_.error
            renew = next_.renew
            await self._pause(next_)
        return None

    async def _pause(self, next_: Return) -> None:
        if next_.pause_s and not self._leaving:
            await asyncio.sleep(next_.pause_s)

    async def _open(self, renew: bool) -> Link:
        settings = self._settings
        headers: dict[str, str] = {}
        if self._token is not None:
            try:
                async with asyncio.timeout(settings.connect_s):
                    headers["Authorization"] = f"Bearer {await self._token(renew)}"
            except TimeoutError:
                raise Unavailable("no token came in time", code="no_token") from None
        return await open_link(
            self._address,
            headers,
            timeout_s=settings.connect_s,
            silent_s=settings.silent_s,
            message_bytes_max=settings.message_bytes_max,
        )

    async def _use(self, link: Link) -> None:
        """Have it until it ends."""
        self._link = link
        self.connections += 1
        try:
            for subscription in self._topics.values():
                self._ask(subscription)
            self._changed.set()
            async for text in link.messages():
                self._hear(text)
        finally:
            self._link = None
            self._changed.clear()
            self._asked.clear()
            for subscription in self._topics.values():
                subscription._follower.ask()  # what comes before the next answer is early
                subscription._rest(None)
            for answered in self._calls.values():
                if not answered.done():
                    answered.set_exception(
                        Unavailable(
                            "the connection ended before the answer came; the outcome is unknown",
                            code="connection_lost",
                        )
                    )
            self._calls.clear()
            await link.drop()

    async def _connection(self) -> Link:
        while True:
            if self._error is not None:
                raise self._error
            if self._link is not None:
                return self._link
            await self._changed.wait()

    # what is asked and heard

    def _next_id(self) -> int:
        self._serial += 1
        return self._serial

    def _ask(self, subscription: Subscription) -> None:
        """Subscribe, from where it stands; one that was left is not asked for any more."""
        if self._topics.get(subscription.topic) is not subscription:
            return
        offset = subscription._follower.ask()
        subscription._rest(None)
        link = self._link
        if link is None:
            return  # the next connection begins with it
        id_ = self._next_id()
        self._forget_asked(subscription)
        self._asked[id_] = subscription
        try:
            link.send(_encode(Subscribe(id=id_, topic=subscription.topic, offset=offset)))
        except Overloaded as error:
            self._ask_later(subscription, error)

    def _forget_asked(self, subscription: Subscription) -> None:
        """What is answered to it so far does not count."""
        for earlier in [one for one, asked in self._asked.items() if asked is subscription]:
            del self._asked[earlier]

    def _ask_later(self, subscription: Subscription, error: Error) -> None:
        pauses = self._settings.pauses
        pause_s = (error.retry_after_s or pauses.first_s) * (1 + self._random())
        loop = asyncio.get_running_loop()
        subscription._rest(loop.call_later(min(pauses.max_s, pause_s), self._ask, subscription))

    def _leave(self, subscription: Subscription) -> None:
        if self._topics.get(subscription.topic) is subscription:
            del self._topics[subscription.topic]
            self._forget_asked(subscription)  # a late refusal must not end who follows the topic next
            if self._link is not None:
                with suppress(Overloaded):
                    self._link.send(_encode(Unsubscribe(id=self._next_id(), topic=subscription.topic)))
        subscription._end()

    def _hear(self, text: bytes) -> None:
        said = read_said(text)
        match said:
            case Tell():
                subscription = self._topics.get(said.topic)
                if subscription is not None:
                    subscription._follower.message(Told(said.topic, bytes(said.data), said.offset))
                    self._look(subscription)
            case Lost():
                subscription = self._topics.get(said.topic)
                if subscription is not None and subscription._follower.stage is not Stage.BEHIND:
                    self._ask(subscription)
            case Subscribed():
                subscription = self._asked.pop(said.id, None)
                if subscription is not None:
                    subscription._follower.answered(said.offset, complete=said.complete)
                    if subscription.offset is None:
                        subscription.offset = said.offset
                    if not subscription.subscribed.done():
                        subscription.subscribed.set_result(None)
                    self._look(subscription)
            case Answered():
                answered = self._calls.get(said.id)
                if answered is not None and not answered.done():
                    answered.set_result(bytes(said.data))
            case Refusal():
                self._refused(said)
            case None:
                _log.warning("gateway_said_something_unknown", bytes=len(text))

    def _look(self, subscription: Subscription) -> None:
        """Wake the reader, or ask again for what did not fit when he has read it all meanwhile."""
        subscription._news.set()
        if subscription._follower.wants_more:
            self._ask(subscription)

    def _refused(self, said: Refusal) -> None:
        error = said.error
        if said.id is None:
            _log.error("gateway_did_not_understand", error=str(error))
            return
        answered = self._calls.get(said.id)
        if answered is not None and not answered.done():
            answered.set_exception(error)
        subscription = self._asked.pop(said.id, None)
        if subscription is None:
            return
        if subscription.subscribed.done() and isinstance(error, Unavailable | Overloaded | DeadlineExceeded):
            self._ask_later(subscription, error)
        elif self._topics.pop(subscription.topic, None) is not None:
            subscription._end(error)
