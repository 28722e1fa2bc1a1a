"""A batched method on the client: one closed loop over all instances, frames on streams, and what to repeat."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from dougong.contract import Message, Method, batch_codec, codec
from dougong.errors import Error, Invalid
from dougong.rpc._batch_client import BatchStream, Frame
from dougong.rpc._transport import Lost, Metadata
from dougong.rpc.batcher import Batch, Batcher
from dougong.rpc.pool import Peer, Pool

__all__ = ["Batches"]

Outcome = Message | Error


class Batches(Batcher[Message, Message]):
    """Batches go to the instance with the fewest frames under way (of two, by chance).

    When a stream breaks, items that were answered keep their outcomes; the rest is sent again if the server surely did
    not begin it or the method is idempotent, else it is `Unavailable` with code `connection_lost`: outcome unknown.
    """

    def __init__(
        self,
        method: Method,
        pool: Pool,
        metadata: Metadata,
        *,
        frames_per_stream: int,
        max_pending: int,
        max_message_bytes: int,
        attempts_max: int,
    ) -> None:
        super().__init__(
            self._not_used,
            max_batch=method.max_batch,
            max_in_flight=frames_per_stream,
            max_pending=max_pending,
            timeout_s=method.timeout_s,
            name=method.path,
        )
        self._method = method
        self._pool = pool
        self._metadata = metadata
        self._frames_per_stream = frames_per_stream
        self._max_message_bytes = max_message_bytes
        self._attempts_max = attempts_max
        self._frames = batch_codec(method)

    async def run(self, batch: Batch[Message, Message]) -> Sequence[Outcome]:
        self.max_in_flight = self._frames_per_stream * max(1, self._pool.size)
        assert batch.deadline is not None, "each call of a client has a deadline"
        async with asyncio.timeout_at(batch.deadline):
            return await self._deliver(batch.requests, batch.traceparents(), batch.deadline)

    async def _deliver(self, requests: Sequence[Message], traces: Sequence[str], end: float) -> list[Outcome]:
        """Send until each request has an outcome or must not be sent again."""
        outcomes, failure = await self._attempt(requests, traces, end, None)
        unknown: Error | None = None  # once something may have been begun, no later error may say that it was not
        attempts = 0
        while failure is not None:
            if isinstance(failure, Error):
                return _filled(outcomes, unknown or failure)
            if failure.started:
                unknown = failure.error
                attempts += 1
                if not self._method.idempotent or attempts >= self._attempts_max:
                    return _filled(outcomes, unknown)
            missing = [index for index, outcome in enumerate(outcomes) if outcome is None]
            again, failure = await self._attempt(
                [requests[index] for index in missing],
                [traces[index] for index in missing] if traces else (),
                end,
                unknown or failure.error,
            )
            for index, outcome in zip(missing, again, strict=True):
                outcomes[index] = outcome
        return cast("list[Outcome]", outcomes)

    async def _attempt(
        self, requests: Sequence[Message], traces: Sequence[str], end: float, last: Error | None
    ) -> tuple[list[Outcome | None], Error | Lost | None]:
        """Send once, to one instance. With a failure, the outcomes that are missing are None."""
        try:
            peer = await self._pool.pick(end, last)
        except Error as error:  # nobody to send it to
            return [None] * len(requests), error
        try:
            frame = await self._send(peer, requests, traces, end)
        except Lost as lost:
            self._pool.failed(peer)
            return [None] * len(requests), lost
        except _TooLarge as large:
            return await self._split(large, requests, traces, end), None
        except _NotEncodable:
            return await self._without_unencodable(requests, traces, end), None
        finally:
            self._pool.release(peer)
        if isinstance(frame.failure, Lost):
            self._pool.failed(peer)
        else:
            self._pool.answered(peer)
        return frame.outcomes, frame.failure

    async def _send(self, peer: Peer, requests: Sequence[Message], traces: Sequence[str], end: float) -> Frame:
        """One frame to one instance; returns when it is answered or will not be."""
        stream = peer.streams.get(self._method.batch_path)
        if stream is None or not stream.open:
            stream = await self._open(peer)
        timeout_ms = max(1, int((end - asyncio.get_running_loop().time()) * 1000))
        try:
            number, data = stream.encode(timeout_ms, requests, traces)
        except Exception as error:
            raise _NotEncodable from error
        if len(data) > self._max_message_bytes:
            raise _TooLarge(len(data))
        frame = stream.send(number, data, len(requests))
        try:
            await frame.done
        finally:
            stream.forget(frame)
        return frame

    async def _open(self, peer: Peer) -> BatchStream:
        path = self._method.batch_path
        async with peer.opening.setdefault(path, asyncio.Lock()):
            stream = peer.streams.get(path)
            if stream is not None and stream.open:
                return stream  # somebody else opened it while we waited
            # No deadline: the stream outlives the batch it is opened for.
            opened = await peer.connection.stream(path, self._metadata, None)
            stream = peer.streams[path] = BatchStream(opened, self._frames, peer.address)
            return stream

    async def _split(
        self, large: _TooLarge, requests: Sequence[Message], traces: Sequence[str], end: float
    ) -> list[Outcome | None]:
        """Over the limit on bytes before that on items: two halves."""
        if len(requests) == 1:
            return [
                Invalid(
                    f"a request of {large.size} bytes to {self._method.path}, at most {self._max_message_bytes} may be"
                    " sent",
                    code="message_too_large",
                )
            ]
        half = len(requests) // 2
        first, second = await asyncio.gather(
            self._deliver(requests[:half], traces[:half], end), self._deliver(requests[half:], traces[half:], end)
        )
        return [*first, *second]

    async def _without_unencodable(
        self, requests: Sequence[Message], traces: Sequence[str], end: float
    ) -> list[Outcome | None]:
        """Some item cannot be put on the wire (a number out of range, a wrong type): find it, send the others."""
        encode = codec(self._method.request).encode
        outcomes: list[Outcome | None] = [None] * len(requests)
        for index, request in enumerate(requests):
            try:
                encode(request)
            except Exception as error:  # noqa: BLE001 (whatever it is, it is this item's fault alone)
                outcomes[index] = Invalid(f"cannot be encoded: {error}", code="not_encodable")
        good = [index for index, outcome in enumerate(outcomes) if outcome is None]
        if len(good) == len(requests):
            raise Invalid(f"a batch for {self._method.path} cannot be encoded", code="not_encodable")
        if good:
            sent = await self._deliver(
                [requests[index] for index in good], [traces[index] for index in good] if traces else (), end
            )
            for index, outcome in zip(good, sent, strict=True):
                outcomes[index] = outcome
        return outcomes

    async def _not_used(self, requests: Sequence[Message]) -> Sequence[Outcome]:
        raise NotImplementedError


def _filled(outcomes: Sequence[Outcome | None], error: Error) -> list[Outcome]:
    return [error if outcome is None else outcome for outcome in outcomes]


class _TooLarge(Exception):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class _NotEncodable(Exception):
    """The codec did not take one of the requests."""
