"""The server's half of a batch stream: frames of requests in, frames of outcomes out, several at work at once.

Each frame is handled by a task of its own. When `frames_per_stream` are at work the stream is not read any further, so
that HTTP/2 flow control holds the client back: that is the whole of the back-pressure. What is wrong with one item
fails that item; what is wrong with a frame (too many items, server busy) is answered by a single error under index
`WHOLE_BATCH`, with nothing done; a frame that cannot be read ends the stream, after what was begun is answered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence

from dougong.contract import BatchCodec, BatchRequest, Message, Method, codec
from dougong.errors import Error, Internal, Invalid
from dougong.rpc._answer import as_error, count_calls, not_encodable, observe
from dougong.rpc._context import Caller, enter_call
from dougong.rpc._load import Load, turned_away_draining
from dougong.rpc._transport import Incoming, Lost
from dougong.rpc.authorize import Authenticator, identify, subject_binder
from dougong.telemetry import continue_trace, span

__all__ = ["WHOLE_BATCH", "ServedBatches"]

WHOLE_BATCH = 0xFFFF_FFFF
"""Index of an error that stands for every item of the batch; nothing of the batch was begun."""

Many = Callable[[Sequence[Message]], Awaitable[Sequence[Message | Error]]]
Outcomes = list[Message | Error]


class ServedBatches:
    """What all streams of one method share."""

    def __init__(
        self,
        method: Method,
        many: Many,
        frames: BatchCodec,
        authenticator: Authenticator | None,
        load: Load,
        *,
        frames_per_stream: int,
        max_message_bytes: int,
    ) -> None:
        self.method = method
        self.many = many
        self.frames = frames
        self.authenticator = authenticator
        self.load = load
        self.frames_per_stream = frames_per_stream
        self.max_message_bytes = max_message_bytes
        requests = codec(method.request)
        self.validate = requests.validate if requests.has_bounds else None
        self.encode = codec(method.response).encode

    async def serve(self, incoming: Incoming) -> None:
        caller = identify(self.method, incoming.metadata.authorization, self.authenticator)
        if self.load.draining:
            raise turned_away_draining()
        await _ServedStream(self, incoming, caller).serve()


class _ServedStream:
    def __init__(self, shared: ServedBatches, incoming: Incoming, caller: Caller | None) -> None:
        self._shared = shared
        self._incoming = incoming
        self._caller = caller
        self._bind = subject_binder(shared.method, caller)
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._room: asyncio.Future[None] | None = None
        self._outbox: deque[bytes] = deque()
        self._sending = False
        self._last_batch = 0

    async def serve(self) -> None:
        # The reader is a task of its own so that draining can stop it without cancelling the call itself.
        reader = self._loop.create_task(self._read())
        forget = self._shared.load.when_draining(reader.cancel)
        try:
            await asyncio.wait({reader})
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            forget()
            left = [reader, *self._tasks]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        if reader.cancelled():
            raise turned_away_draining(self._last_batch)
        reader.result()

    async def _read(self) -> None:
        shared = self._shared
        while True:
            while len(self._tasks) >= shared.frames_per_stream:
                self._room = self._loop.create_future()
                await self._room
            data = await self._incoming.receive()
            if data is None:
                return
            frame = shared.frames.decode_request(data)
            self._last_batch = frame.batch
            count = len(frame.requests)
            try:
                if count > shared.method.max_batch:
                    raise Invalid(
                        f"a batch of {count} requests to {shared.method.path}, at most {shared.method.max_batch} are"
                        " taken: split it",
                        code="batch_too_large",
                        max_batch=shared.method.max_batch,
                    )
                shared.load.admit(count)
            except Error as error:
                count_calls(count, shared.method.path, error.code)
                self._spawn(self._send(shared.frames.encode_reply(frame.batch, [error], WHOLE_BATCH)))
            except Lost:
                return
            else:
                self._spawn(self._handle(frame, count))

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def _handle(self, frame: BatchRequest, count: int) -> None:
        shared = self._shared
        path = shared.method.path
        started = self._loop.time()
        try:
            timeout_s = frame.timeout_ms / 1000 if frame.timeout_ms else shared.method.timeout_s
            enter_call(self._caller, started + timeout_s)
            parent = next(filter(None, frame.traceparents), "") if frame.traceparents else ""
            with continue_trace(parent), span(path, items=count) as current:
                try:
                    outcomes = await self._outcomes(frame.requests, started + timeout_s)
                except Exception as error:
                    fault = as_error(path, error)
                    current.fail(fault)
                    outcomes = [fault] * count
            replies = self._replies(frame.batch, outcomes, 0)
        finally:
            shared.load.release(count)
        errors = [outcome.code for outcome in outcomes if isinstance(outcome, Error)]
        for code in errors:
            count_calls(1, path, code)
        count_calls(count - len(errors), path, "ok")
        observe(self._loop.time() - started, path)
        for reply in replies:
            await self._send(reply)

    async def _outcomes(self, requests: Sequence[Message | Error], end: float) -> Outcomes:
        """One per request. Items that are wrong in themselves never reach the method."""
        shared = self._shared
        validate, bind = shared.validate, self._bind
        good: list[Message] = []
        bad: dict[int, Error] = {}
        for index, request in enumerate(requests):
            if isinstance(request, Error):
                bad[index] = request
                continue
            try:
                if validate is not None:
                    validate(request)
                good.append(request if bind is None else bind(request))
            except Error as error:
                bad[index] = error
        outcomes: Outcomes = []
        if good:
            async with asyncio.timeout_at(end):
                outcomes = list(await shared.many(good))
            if len(outcomes) != len(good):
                raise Internal(
                    f"{shared.method.path} answered {len(outcomes)} outcomes to {len(good)} requests", code="bad_batch"
                )
        for index in sorted(bad):
            outcomes.insert(index, bad[index])
        return outcomes

    def _replies(self, batch: int, outcomes: Outcomes, start: int) -> list[bytes]:
        """Normally one; split in halves until each fits into a message."""
        try:
            data = self._shared.frames.encode_reply(batch, outcomes, start)
        except Exception:  # the method answered something that has no form on the wire: find it, spare the others
            outcomes = [self._encodable(outcome) for outcome in outcomes]
            data = self._shared.frames.encode_reply(batch, outcomes, start)
        limit = self._shared.max_message_bytes
        if len(data) <= limit:
            return [data]
        if len(outcomes) == 1:
            error = Internal(f"the reply has {len(data)} bytes, at most {limit} may be sent", code="message_too_large")
            return [self._shared.frames.encode_reply(batch, [error], start)]
        half = len(outcomes) // 2
        return [
            *self._replies(batch, outcomes[:half], start),
            *self._replies(batch, outcomes[half:], start + half),
        ]

    def _encodable(self, outcome: Message | Error) -> Message | Error:
        if not isinstance(outcome, Error):
            try:
                self._shared.encode(outcome)
            except Exception as error:
                return not_encodable(self._shared.method.path, error)
        return outcome

    async def _send(self, reply: bytes) -> None:
        """One task at a time writes, for all that have something to say: gRPC takes one write at a time."""
        self._outbox.append(reply)
        if self._sending:
            return
        self._sending = True
        try:
            while self._outbox:
                await self._incoming.send(self._outbox.popleft())
        finally:
            self._sending = False
