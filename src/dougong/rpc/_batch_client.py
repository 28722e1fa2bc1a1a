"""The client's half of a batch stream: frames out, outcomes back in any order, several frames in flight.

A stream has two tasks of its own, one that writes and one that reads, because gRPC ends the whole call when a task is
cancelled inside a read or a write: no caller's cancellation may do that to its neighbours.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from dougong.contract import BatchCodec, Message
from dougong.errors import Error, Unavailable
from dougong.rpc._batch_server import GO_AWAY, WHOLE_BATCH
from dougong.rpc._load import DRAINING
from dougong.rpc._transport import Lost, Stream, connection_lost

__all__ = ["BatchStream", "Frame"]


class Frame:
    """One batch on its way. `done` is set when each item has its outcome, or when there will be no more (`failure`)."""

    __slots__ = ("done", "failure", "missing", "number", "outcomes", "sent")

    def __init__(self, number: int, count: int, done: asyncio.Future[None]) -> None:
        self.number = number
        self.outcomes: list[Message | Error | None] = [None] * count
        self.missing = count
        self.done = done
        self.sent = False
        self.failure: Error | Lost | None = None
        """Why items have no outcome."""


class BatchStream:
    """One open stream to one instance."""

    def __init__(
        self,
        stream: Stream,
        frames: BatchCodec,
        address: str,
        on_gone: Callable[[Error | Lost], object],
        on_broken: Callable[[], object],
    ) -> None:
        self._stream = stream
        self._on_gone = on_gone
        """Told once, when it takes nothing more."""
        self._on_broken = on_broken
        """Told when the other side went without a word, even if nothing was under way: a crash need not cost a call."""
        self._codec = frames
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._frames: dict[int, Frame] = {}
        self._outbox: deque[tuple[Frame, bytes]] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._last = 0
        self.open = True
        """False once it broke or ended: make another."""
        self._writer = self._loop.create_task(self._write())
        self._reader = self._loop.create_task(self._read())

    def encode(
        self, timeout_ms: int, requests: Sequence[Message], traceparents: Sequence[str], baggage: str = ""
    ) -> tuple[int, bytes]:
        """A frame's number and bytes. Numbers grow along the stream."""
        self._last += 1
        return self._last, self._codec.encode_request(self._last, timeout_ms, requests, traceparents, baggage)

    def send(self, number: int, data: bytes, count: int) -> Frame:
        """Put a frame on its way; never waits."""
        frame = Frame(number, count, self._loop.create_future())
        self._frames[number] = frame
        self._outbox.append((frame, data))
        self._rouse()
        return frame

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def forget(self, frame: Frame) -> None:
        """Nobody waits for it any more; a late answer is dropped."""
        self._frames.pop(frame.number, None)

    async def retire(self, timeout_s: float) -> None:
        """Nothing is under way on it and nothing will be: end it in good order, or within `timeout_s` in bad."""
        self.open = False
        self._rouse()
        await asyncio.wait({self._writer, self._reader}, timeout=timeout_s)
        await self.close()

    async def close(self) -> None:
        self._end(Lost(Unavailable(f"the connection to {self._address} was closed", code="closed"), started=True))
        self._stream.cancel()
        self._writer.cancel()
        self._reader.cancel()
        await asyncio.gather(self._writer, self._reader, return_exceptions=True)

    async def _write(self) -> None:
        try:
            while True:
                while self._outbox:
                    frame, data = self._outbox.popleft()
                    frame.sent = True
                    await self._stream.send(data)
                if not self.open:
                    await self._stream.finish()
                    return
                self._wake = self._loop.create_future()
                await self._wake
        except (Error, Lost):
            # The reader learns why, from the call's status, which says more than a failed write.
            return

    async def _read(self) -> None:
        try:
            while (data := await self._stream.receive()) is not None:
                reply = self._codec.decode_reply(data)
                if reply.batch == GO_AWAY:
                    self._leave(reply.outcomes[0][1])
                elif (frame := self._frames.get(reply.batch)) is not None:
                    self._take(frame, reply.outcomes)
            expected = not self.open
            self._end(connection_lost(self._address, "the server ended the stream"))
            if not expected:
                self._on_broken()
        except (Error, Lost) as failure:
            self._end(failure)
            if isinstance(failure, Lost) and failure.started:
                self._on_broken()
        except Exception as error:  # a reply that makes no sense: nothing on this stream can be trusted any more
            self._end(connection_lost(self._address, f"unreadable reply: {error!r}"))
            raise
        finally:
            self._writer.cancel()
            self._stream.cancel()

    def _take(self, frame: Frame, outcomes: Sequence[tuple[int, Message | Error]]) -> None:
        into = frame.outcomes
        if len(outcomes) == 1 and outcomes[0][0] == WHOLE_BATCH:
            refusal = outcomes[0][1]
            assert isinstance(refusal, Error), "only errors stand for whole batches"
            self._fail(frame, Lost(refusal, started=False) if refusal.code == DRAINING else refusal)
            return
        answered = 0
        for index, outcome in outcomes:
            if into[index] is None:
                answered += 1
                into[index] = outcome
        frame.missing -= answered
        if not frame.missing:
            del self._frames[frame.number]
            if not frame.done.done():
                frame.done.set_result(None)

    def _fail(self, frame: Frame, failure: Error | Lost) -> None:
        self._frames.pop(frame.number, None)
        frame.failure = failure
        if not frame.done.done():
            frame.done.set_result(None)

    def _leave(self, refusal: Message | Error) -> None:
        """The server begins nothing more: what was not sent goes elsewhere, what was sent will be answered."""
        assert isinstance(refusal, Error), "only errors send clients away"
        away: Error | Lost = Lost(refusal, started=False) if refusal.code == DRAINING else refusal
        self._takes_no_more(away)
        unsent, self._outbox = self._outbox, deque()
        for frame, _ in unsent:
            self._fail(frame, away)
        self._rouse()

    def _takes_no_more(self, why: Error | Lost) -> None:
        if self.open:
            self.open = False
            self._on_gone(why)

    def _end(self, failure: Error | Lost) -> None:
        self._takes_no_more(failure)
        self._outbox.clear()
        for frame in list(self._frames.values()):
            if isinstance(failure, Lost) and not frame.sent:
                self._fail(frame, Lost(failure.error, started=False))
            else:
                self._fail(frame, failure)
