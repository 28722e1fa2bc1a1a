"""A batched method on the client: one closed loop over all instances, frames on streams, and what to repeat."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import msgspec

from dougong.contract import Message, Method, batch_codec, codec
from dougong.errors import DeadlineExceeded, Error, Invalid
from dougong.mesh import Host
from dougong.rpc._attempts import Attempts
from dougong.rpc._batch_client import Frame
from dougong.rpc._connections import NO_ROOM
from dougong.rpc._pool_parts import Used
from dougong.rpc._transport import Lost, Metadata
from dougong.rpc.batcher import PLAIN, Batch, Batcher, Lane
from dougong.rpc.credentials import Credentials
from dougong.rpc.pool import Peer
from dougong.rpc.ways import Way
from dougong.rpc.why import CallRecord

__all__ = ["Batches"]

Outcome = Message | Error
_TICK_S = 0.001
"""uvloop's timers count milliseconds: one may be early by so much."""


class Batches(Batcher[Message, Message]):
    """Batches go to the instance with the fewest frames under way (of two, by chance).

    When a stream breaks, items that were answered keep their outcomes; the rest is sent again if the server surely did
    not begin it or the method is idempotent, else it is `Unavailable` with code `connection_lost`: outcome unknown.
    """

    def __init__(
        self,
        method: Method,
        way: Way,
        credentials: Credentials,
        *,
        frames_per_stream: int,
        max_pending: int,
        max_message_bytes: int,
    ) -> None:
        super().__init__(
            self._not_used,
            max_batch=method.max_batch,
            max_in_flight=frames_per_stream,
            eager=1,
            max_pending=max_pending,
            timeout_s=method.timeout_s,
            name=method.path,
        )
        self._method = method
        self._way = way
        self._pool = way.pool
        self._credentials = credentials
        self._frames_per_stream = frames_per_stream
        self._max_message_bytes = max_message_bytes
        self._frames = batch_codec(method)

    async def run(self, batch: Batch[Message, Message]) -> Sequence[Outcome]:
        self.eager = max(1, self._pool.size)
        self.max_in_flight = self._frames_per_stream * self.eager
        assert batch.deadline is not None, "each call of a client has a deadline"
        lane = cast("Lane | None", batch.key) or PLAIN
        asked = [share[0].record for share in batch.shares if share[0].record is not None]
        trip = _Trip(lane, batch.deadline, CallRecord() if asked else None)
        try:
            async with asyncio.timeout_at(batch.deadline):
                if not lane.authorization and not self._credentials.fresh:
                    await self._credentials.get(batch.deadline)
                return await self._deliver(batch.requests, batch.traceparents(), trip)
        finally:
            if trip.note is not None:
                self._tell(trip.note, len(batch.requests), trip.begun, asked)

    def _tell(self, note: CallRecord, items: int, begun: float, asked: Sequence[tuple[CallRecord, float]]) -> None:
        note.method, note.batch_size = self._method.path, items
        for record, since in asked:
            record.take(note)
            record.queue_s = begun - since

    async def _deliver(self, requests: Sequence[Message], traces: Sequence[str], trip: _Trip) -> list[Outcome]:
        """Send until each request has an outcome or must not be sent again."""
        outcomes, failure = await self._attempt(requests, traces, trip, None)
        if failure is None:
            return cast("list[Outcome]", outcomes)
        attempts = Attempts(self._method, self._pool.cluster.limits, self._way.retries, self._way.random)
        try:
            while failure is not None:
                wait_s = attempts.after(failure)
                if wait_s is None or (wait_s and asyncio.get_running_loop().time() + wait_s >= trip.end):
                    return _filled(outcomes, attempts.verdict(failure))
                if wait_s:
                    await asyncio.sleep(wait_s)
                missing = [index for index, outcome in enumerate(outcomes) if outcome is None]
                again, failure = await self._attempt(
                    [requests[index] for index in missing],
                    [traces[index] for index in missing] if traces else (),
                    trip,
                    attempts.verdict(failure),
                )
                for index, outcome in zip(missing, again, strict=True):
                    outcomes[index] = outcome
        finally:
            attempts.close()
        return cast("list[Outcome]", outcomes)

    async def _attempt(
        self, requests: Sequence[Message], traces: Sequence[str], trip: _Trip, last: Error | None
    ) -> tuple[list[Outcome | None], Error | Lost | None]:
        """Send once, to one instance. With a failure, the outcomes that are missing are None."""
        try:
            peer = await self._pool.pick(trip.end, last, trip.tried)
        except Error as error:  # nobody to send it to
            return [None] * len(requests), error
        note = trip.note
        if note is not None:
            self._pool.note(note, peer)
        retries = self._way.retries
        if retries is not None and retries.other_hosts_first:
            trip.tried.append(peer.host)
        began = asyncio.get_running_loop().time()
        try:
            frame = await self._send(peer, requests, traces, trip)
        except Lost as lost:
            self._pool.failed(peer, lost, began, trip.end)
            if note is not None:
                note.failed(peer.address, lost.error)
            return [None] * len(requests), lost
        except Error as error:  # no room on the connections to it, or it does not take our streams
            if error.code not in NO_ROOM:
                self._pool.answered(peer, began, error)
            return [None] * len(requests), error
        except _TooLarge as large:
            return await self._split(large, requests, traces, trip), None
        except _NotEncodable:
            return await self._without_unencodable(requests, traces, trip), None
        finally:
            self._pool.release(peer)
        if frame.failure is None:
            self._pool.answered_items(peer, began, frame.outcomes)
        elif isinstance(frame.failure, Lost) and isinstance(frame.failure.error, DeadlineExceeded):
            self._pool.timed_out(peer, began)
        elif isinstance(frame.failure, Lost):
            self._pool.failed(peer, frame.failure, began, trip.end)
            if note is not None:
                note.failed(peer.address, frame.failure.error)
        else:
            self._pool.answered(peer, began, frame.failure)
        return frame.outcomes, frame.failure

    async def _send(self, peer: Peer, requests: Sequence[Message], traces: Sequence[str], trip: _Trip) -> Frame:
        """One frame to one instance; returns when it is answered or will not be."""
        metadata, carried = Metadata(trip.lane.authorization or self._credentials.header), trip.lane.baggage
        if self._way.headers is not None:
            dressed = self._way.dress(msgspec.structs.replace(metadata, baggage=carried))
            metadata, carried = msgspec.structs.replace(dressed, baggage=""), dressed.baggage
        opened = await peer.connections.lease(self._method.batch_path, metadata, self._frames, trip.end)
        if trip.note is not None:
            trip.note.reused, trip.note.connection_age_s = opened.reused, opened.age_s
        used, stream, began = Used.LEFT, opened.stream, asyncio.get_running_loop().time()
        try:
            timeout_ms = max(1, int((trip.end - asyncio.get_running_loop().time()) * 1000))
            try:
                number, data = stream.encode(timeout_ms, requests, traces, carried)
            except Exception as error:
                raise _NotEncodable from error
            if len(data) > self._max_message_bytes:
                raise _TooLarge(len(data))
            frame = stream.send(number, data, len(requests))
            try:
                used = Used.TIMED_OUT  # or the caller's client is closed, which says nothing either way
                if not await self._answered(frame, trip):
                    return frame
                used = peer.connections.used(frame.failure)
            finally:
                stream.forget(frame)
        finally:
            peer.connections.release(opened, used)
            if used is Used.TIMED_OUT and asyncio.get_running_loop().time() >= trip.end - _TICK_S:
                self._pool.timed_out(peer, began)
        return frame

    async def _answered(self, frame: Frame, trip: _Trip) -> bool:
        """Whether it was, before the time of one try was over. If not, something may have been begun."""
        end = self._way.try_end(trip.end)
        if end >= trip.end:
            await frame.done
            return True
        try:
            async with asyncio.timeout_at(end):
                await asyncio.shield(frame.done)
        except TimeoutError:
            late = DeadlineExceeded(
                f"{self._method.path}: one try took longer than its route allows", code="try_timeout"
            )
            frame.failure = Lost(late, started=True)
            return False
        return True

    async def _split(
        self, large: _TooLarge, requests: Sequence[Message], traces: Sequence[str], trip: _Trip
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
            self._deliver(requests[:half], traces[:half], trip), self._deliver(requests[half:], traces[half:], trip)
        )
        return [*first, *second]

    async def _without_unencodable(
        self, requests: Sequence[Message], traces: Sequence[str], trip: _Trip
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
                [requests[index] for index in good], [traces[index] for index in good] if traces else (), trip
            )
            for index, outcome in zip(good, sent, strict=True):
                outcomes[index] = outcome
        return outcomes

    async def _not_used(self, requests: Sequence[Message]) -> Sequence[Outcome]:
        raise NotImplementedError


def _filled(outcomes: Sequence[Outcome | None], error: Error) -> list[Outcome]:
    return [error if outcome is None else outcome for outcome in outcomes]


class _Trip:
    """What all attempts at one batch have in common."""

    __slots__ = ("begun", "end", "lane", "note", "tried")

    def __init__(self, lane: Lane, end: float, note: CallRecord | None) -> None:
        self.lane = lane
        self.end = end
        self.note = note
        """What to tell those who asked; None when nobody did."""
        self.tried: list[Host] = []
        """To be passed over, where the route wants that."""
        self.begun = asyncio.get_running_loop().time()


class _TooLarge(Exception):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class _NotEncodable(Exception):
    """The codec did not take one of the requests."""
