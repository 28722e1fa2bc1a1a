"""What clients ask for, and what they are answered: calls, subscriptions, and what they missed."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence

from dougong.errors import DeadlineExceeded, Error, Forbidden, Internal, Invalid, NotFound, Overloaded, Unavailable
from dougong.gateway import messages
from dougong.gateway.asking import Asker, enter_asker
from dougong.gateway.connection import TICK_S, Connection, Phase
from dougong.gateway.history import Offset
from dougong.gateway.membership import Membership
from dougong.gateway.settings import GatewaySettings
from dougong.gateway.within import Begun, begin
from dougong.telemetry import get_logger

__all__ = ["Calls", "Conversation", "MaySubscribe", "Send", "Spawn"]

_log = get_logger("dougong.gateway")

MaySubscribe = Callable[[str, str], bool]
"""(user, topic): whether a client may ask for that topic."""
Calls = Callable[[str, messages.Call], Awaitable[bytes]]
"""(user, call): the answer as JSON. Raises what `dougong.errors` has. `current_asker()` knows more of who asks."""
Send = Callable[[Connection, bytes, str | None], None]
"""(connection, JSON, topic): a text message."""
SendAll = Callable[[Connection, list[bytes]], None]
"""Several, in one write."""
_OPEN = Phase.OPEN
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
        now: Callable[[], int],
    ) -> None:
        self._membership = membership
        self._settings = settings
        self._calls = calls
        self._calls_max = settings.calls_per_connection_max
        self._may_subscribe = may_subscribe
        self._send = send
        self._send_all = send_all
        self._spawn = spawn
        self._now = now
        self._under_way: dict[int, int] = {}
        """Calls, by the connection's serial number."""
        self._asked: deque[tuple[Connection, Sequence[messages.Call], Calls]] = deque()
        """Calls that nobody answers yet, as they came: those of one read together."""
        self._due = False
        """Somebody looks at them soon."""
        self._idle: asyncio.Future[None] | None = None
        """Wakes the task that has nothing to answer."""

    def hear(self, connection: Connection, texts: Sequence[bytes]) -> None:
        """Text messages, of one read."""
        asked: list[messages.Call] = []
        for text in texts:
            if connection.phase is not _OPEN:  # the one before may have ended it
                break
            try:
                one = messages.read(text)
            except Invalid as error:
                self._send(connection, messages.refused(messages.id_of(text), error), None)
                continue
            if isinstance(one, messages.Call):
                asked.append(one)
            elif isinstance(one, messages.Subscribe):
                self._spawn(self._subscribe(connection, one))
            else:
                self._spawn(self._unsubscribe(connection, one))
        if not asked:
            return
        calls, serial = self._calls, connection.serial
        under_way = self._under_way.get(serial, 0)
        count = under_way + len(asked)
        if calls is None or count > self._calls_max:
            asked = self._within_limit(connection, asked, self._calls_max - under_way)
            count = under_way + len(asked)
        if asked and calls is not None:
            self._under_way[serial] = count
            self._asked.append((connection, asked, calls))
            if not self._due:
                self._go_on()

    def _within_limit(
        self, connection: Connection, asked: list[messages.Call], room: int
    ) -> list[messages.Call]:
        """Those for which there is room; the others are refused."""
        refusal: Error = NotFound("no calls are answered here", code="no_calls")
        if self._calls is not None:
            refusal = Overloaded(f"over {self._calls_max} calls at once", code="too_many_calls", retry_after_s=0.1)
        taken = asked[: max(0, room)] if self._calls is not None else []
        for call in asked[len(taken) :]:
            self._send(connection, messages.refused(call.id, refusal), None)
        return taken

    def _go_on(self) -> None:
        """Have what was asked answered, and look again after that."""
        self._due = bool(self._asked)
        if not self._due:
            return
        idle, self._idle = self._idle, None
        if idle is not None and not idle.done():
            idle.set_result(None)
        elif not self._spawn(self._answer()):
            self._asked.clear()
        # Right after the task's step: it is through, or a call has it wait.
        asyncio.get_running_loop().call_soon(self._go_on)

    async def _answer(self) -> None:
        """One task for all calls, turn after turn of the loop, as long as none has to wait: a task each costs more than
        most answers do. Whoever waits is relieved by another, and is not needed any more when he comes back."""
        while True:
            while self._asked:
                waits = self._answer_some(*self._asked.popleft())
                if waits is not None:
                    await waits
            if self._idle is not None:
                return
            self._idle = idle = asyncio.get_running_loop().create_future()
            await idle

    def _answer_some(
        self, connection: Connection, asked: Sequence[messages.Call], calls: Calls
    ) -> Awaitable[None] | None:
        """Answer what came in one read, in one write, up to the first call that cannot be answered at once, which most
        can: that is left to be awaited, and those after it to whoever comes next."""
        user, asked_s, timeout_s = connection.user or "", 0.0, 0.0
        left_s = math.inf
        if connection.expires >= 0:  # nothing is done for somebody after his session
            left_s = max(0.0, (connection.expires - self._now()) * TICK_S)
        answers: list[bytes] = []
        begun_count, waits = 0, None
        try:
            for call in asked:
                begun_count += 1
                if call.timeout_s != asked_s:
                    asked_s = call.timeout_s
                    timeout_s = asked_s if asked_s < left_s else left_s
                    enter_asker(Asker(user, connection.caller, connection.ip, timeout_s))
                try:
                    begun = begin(calls(user, call))
                except Exception as error:  # noqa: BLE001 (a bug in one call is told, and ends nothing else)
                    answers.append(self._refusal(call, error, timeout_s))
                    continue
                if isinstance(begun, Begun):
                    waits = self._wait(connection, call, begun, timeout_s)
                    return waits
                answers.append(messages.answer(call.id, begun))
            return None
        finally:  # also of a call that ends this task
            if begun_count < len(asked):
                self._asked.appendleft((connection, asked[begun_count:], calls))
            self._through(connection, begun_count if waits is None else begun_count - 1)
            if answers:
                self._send_all(connection, answers)

    def _through(self, connection: Connection, count: int) -> None:
        """So many calls are under way no more."""
        left = self._under_way.pop(connection.serial) - count
        if left:
            self._under_way[connection.serial] = left

    async def _wait(self, connection: Connection, call: messages.Call, begun: Begun[bytes], timeout_s: float) -> None:
        try:
            data = await begun.within(timeout_s)
        except Exception as error:  # noqa: BLE001 (as in `_answer_some`)
            self._send(connection, self._refusal(call, error, timeout_s), None)
        else:
            self._send(connection, messages.answer(call.id, data), None)
        finally:
            self._through(connection, 1)

    def _refusal(self, call: messages.Call, error: Exception, timeout_s: float) -> bytes:
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

    async def _unsubscribe(self, connection: Connection, asked: messages.Unsubscribe) -> None:
        await self._membership.leave(connection, asked.topic)
        self._send(connection, messages.answer(asked.id), None)
