"""What clients ask for, and what they are answered: calls, subscriptions, and what they missed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence

from dougong.errors import DeadlineExceeded, Error, Forbidden, Internal, Invalid, NotFound, Overloaded, Unavailable
from dougong.gateway import messages
from dougong.gateway.asking import Asker
from dougong.gateway.connection import TICK_S, Connection, Phase
from dougong.gateway.eager import Eager, NewTask, Waiting
from dougong.gateway.history import Offset
from dougong.gateway.membership import Membership
from dougong.gateway.settings import GatewaySettings
from dougong.gateway.within import Begun, begin
from dougong.telemetry import get_logger

__all__ = ["Calls", "Conversation", "MaySubscribe", "Send", "Spawn"]

_log = get_logger("dougong.gateway")

MaySubscribe = Callable[[str, str], bool]
"""(user, topic): whether a client may ask for that topic."""
Calls = Callable[[Asker, messages.Call], Awaitable[bytes]]
"""(who asks, call): the answer as JSON. Raises what `dougong.errors` has."""
Send = Callable[[Connection, bytes, str | None], None]
"""(connection, JSON, topic): a text message."""
SendAll = Callable[[Connection, list[bytes]], None]
"""Several, in one write."""
_OPEN = Phase.OPEN
_NOBODY = Asker("")
_NO_CALLS = NotFound("no calls are answered here", code="no_calls")
_OURS = Internal("a fault of ours; it is in the log", code="internal")
Spawn = Callable[[Coroutine[None, None, None]], bool]
"""Run it; False when everything ends and it does not run any more."""


class Conversation:
    """All conversations of a process; what each needs while something is under way is kept beside it, not in it."""

    def __init__(
        self,
        membership: Membership,
        settings: GatewaySettings,
        *,
        calls: Calls | None,
        may_subscribe: MaySubscribe,
        send: Send,
        send_all: SendAll,
        spawn: Spawn,
        new_task: NewTask,
        now: Callable[[], int],
    ) -> None:
        self._membership = membership
        self._settings = settings
        self._calls = calls
        self._calls_max = settings.calls_per_connection_max
        self._too_many = Overloaded(f"over {self._calls_max} calls at once", code="too_many_calls", retry_after_s=0.1)
        self._may_subscribe = may_subscribe
        self._send = send
        self._send_all = send_all
        self._spawn = spawn
        self._now = now
        self._eager = Eager(new_task)
        self._under_way: dict[int, int] = {}
        """Calls that wait for something, by the connection's serial number."""

    def hear(self, connection: Connection, texts: Sequence[bytes]) -> None:
        """Text messages, of one read."""
        left = iter(texts)
        while self._eager.run(self._hear, connection, left):
            pass  # behind each call that waits

    def _hear(self, connection: Connection, texts: Iterator[bytes]) -> Waiting | None:
        """Up to a call that has to wait for something, as few have; the answers up to there go out in one write."""
        calls, asker, asked_s, timeout_s, left_s = self._calls, _NOBODY, 0.0, 0.0, math.inf
        under_way = self._under_way.get(connection.serial, 0)
        if connection.expires >= 0:  # nothing is done for somebody after his session
            left_s = max(0.0, (connection.expires - self._now()) * TICK_S)
        answers: list[bytes] = []
        try:
            for text in texts:
                if connection.phase is not _OPEN:  # the one before may have ended it
                    break
                try:
                    asked = messages.read(text)
                except Invalid as error:
                    answers.append(messages.refused(messages.id_of(text), error))
                    continue
                if not isinstance(asked, messages.Call):
                    self._spawn(self._join_or_leave(connection, asked))
                    continue
                if calls is None or under_way >= self._calls_max:
                    answers.append(messages.refused(asked.id, _NO_CALLS if calls is None else self._too_many))
                    continue
                if asked.timeout_s != asked_s:
                    asked_s = asked.timeout_s
                    timeout_s = asked_s if asked_s < left_s else left_s  # noqa: FURB136 (`min` costs ten times that)
                    asker = Asker(connection.user or "", connection.caller, connection.ip, timeout_s)
                try:
                    begun = begin(calls(asker, asked))
                except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 (it ends nothing else)
                    answers.append(self._refusal(asked, error, timeout_s))
                    continue
                if isinstance(begun, Begun):
                    self._under_way[connection.serial] = under_way + 1
                    return Waiting(begun, self._wait(connection, asked, begun, timeout_s))
                answers.append(messages.answer(asked.id, begun))
            return None
        finally:
            if answers:
                self._send_all(connection, answers)

    async def _wait(self, connection: Connection, call: messages.Call, begun: Begun[bytes], timeout_s: float) -> None:
        try:
            data = await begun.within(timeout_s)
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # else it was something that the call waited for
            self._send(connection, self._refusal(call, error, timeout_s), None)
        else:
            self._send(connection, messages.answer(call.id, data), None)
        finally:
            left = self._under_way.pop(connection.serial) - 1
            if left:
                self._under_way[connection.serial] = left

    def _refusal(self, call: messages.Call, error: BaseException, timeout_s: float) -> bytes:
        """What is told in place of an answer."""
        if isinstance(error, Error) and not isinstance(error, Internal):
            told: Error = error
        elif isinstance(error, TimeoutError):
            told = DeadlineExceeded(f"no answer within {timeout_s:g} s; the outcome is unknown")
        else:  # whose words may name files, SQL or hosts
            told = _OURS
            trace = None if isinstance(error, Internal) else error
            _log.error("call_failed", method=call.method, error=str(error), exc_info=trace)
        return messages.refused(call.id, told)

    async def _join_or_leave(self, connection: Connection, asked: messages.Subscribe | messages.Unsubscribe) -> None:
        if isinstance(asked, messages.Subscribe):
            await self._subscribe(connection, asked)
        else:
            await self._membership.leave(connection, asked.topic)
            self._send(connection, messages.answer(asked.id), None)

    async def _subscribe(self, connection: Connection, asked: messages.Subscribe) -> None:
        """Told at once and in order: where the topic stands, what was missed, and what was published meanwhile."""
        topic = asked.topic
        try:
            if not self._may_subscribe(connection.user or "", topic):
                raise Forbidden(f"{topic} is not for you", code="topic_forbidden")
            async with asyncio.timeout(self._settings.join_timeout_s):
                joined = await self._membership.join(
                    connection, topic, asked.offset, topics_max=self._settings.topics_per_connection_max
                )
        except Error as error:
            self._send(connection, messages.refused(asked.id, error), None)
            return
        except TimeoutError:
            late = Unavailable(f"{topic} cannot be joined now; try again", code="join_timeout", retry_after_s=1.0)
            self._send(connection, messages.refused(asked.id, late), None)
            return
        now = joined.offset
        self._send(connection, messages.subscribed(asked.id, topic, now, complete=joined.complete), None)
        for number, data in joined.missed:
            self._send(connection, messages.message(topic, Offset(now.epoch, number), data), topic)
        for one in joined.held:
            self._send(connection, messages.message(topic, one.offset, one.data), topic)
