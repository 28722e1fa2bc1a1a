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
from dougong.mesh import accepted_baggage
from dougong.rpc._answer import as_error, count_calls, not_encodable, observe
from dougong.rpc._context import Caller, enter_call
from dougong.rpc._load import Load, turned_away_draining
from dougong.rpc._transport import Incoming, Lost
from dougong.rpc.authorize import Authenticator, identify, subject_binder
from dougong.telemetry import continue_trace, span

__all__ = ["GO_AWAY", "WHOLE_BATCH", "ServedBatches"]

WHOLE_BATCH = 0xFFFF_FFFF
"""Index of an error that stands for every item of the batch; nothing of the batch was begun."""
GO_AWAY = 0
"""Batch number of a reply that answers no batch: send nothing more on this stream, close it when all is answered.
Batches sent before this was read are answered all the same, those that were not begun by the same error."""
_REFUSE_S = 5.0  # how long a caller who may not call has to close its stream

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
        try:
            caller = identify(self.method, incoming.metadata.authorization, self.authenticator)
        except Error as error:
            async with asyncio.timeout(_REFUSE_S):
                await _ServedStream(self, incoming, None).serve(error)
            raise
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
        self._refusal: Error | None = None

    async def serve(self, refusal: Error | None = None) -> None:
        if refusal is not None:
            self._turn_away(refusal)
        close = self._shared.load.stream_opened(lambda: self._turn_away(turned_away_draining().error))
        try:
            await self._read()
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _turn_away(self, refusal: Error) -> None:
        """Begin nothing more. The client is told, and ends the stream when it has its answers.

        Ending it from here would be shorter, but a client that is writing at that moment gets an error of gRPC's own
        in the place of the status, and could not tell what was begun.
        """
        if self._refusal is None:
            self._refusal = refusal
            self._spawn(self._send(self._shared.frames.encode_reply(GO_AWAY, [refusal], WHOLE_BATCH)))

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
            count = len(frame.requests)
            refusal = self._refusal if self._refusal is not None else self._admit(count)
            if refusal is None:
                self._spawn(self._handle(frame, count))
            else:
                count_calls(count, shared.method.path, refusal.code)
                self._spawn(self._send(shared.frames.encode_reply(frame.batch, [refusal], WHOLE_BATCH)))

    def _admit(self, count: int) -> Error | None:
        """Take on a frame, or say why not."""
        method = self._shared.method
        if count > method.max_batch:
            return Invalid(
                f"a batch of {count} requests to {method.path}, at most {method.max_batch} are taken: split it",
                code="batch_too_large",
                max_batch=method.max_batch,
            )
        try:
            self._shared.load.admit(count)
        except Error as error:
            return error
        except Lost as lost:
            return lost.error
        return None

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
            enter_call(self._caller, started + timeout_s, baggage=accepted_baggage(frame.baggage))
            parent = next(filter(None, frame.traceparents), "") if frame.traceparents else ""
            with continue_trace(parent), span(path, items=count) as current:
                outcomes: Outcomes
                try:
                    outcomes = await self._outcomes(frame.requests, started + timeout_s)
                except Exception as error:  # noqa: BLE001 (whatever it is, it is answered and logged)
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
        except Exception:  # noqa: BLE001 (something without a form on the wire: find it, spare the others)
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
            except Exception as error:  # noqa: BLE001 (logged there)
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
