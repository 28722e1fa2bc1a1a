"""Frames of a batched method: many requests in one message, each answered by its reply or its own error."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, cast

import msgspec
from google.protobuf.message import DecodeError, EncodeError

from dougong.contract._codec import WRITE_FAILURES, Absent, Mapper, explain_read, explain_write, malformed, too_deep
from dougong.contract._declare import Message, Method
from dougong.contract._descriptors import batch_names, wire_classes
from dougong.errors import Error, error_from

__all__ = ["BatchCodec", "BatchReply", "BatchRequest", "batch_codec"]

_UINT32 = 2**32 - 1


# Both may hold errors, and these the frames they were raised in, which may hold the frame of the wire: a cycle, so the
# collector has to see them.


class BatchRequest(msgspec.Struct, frozen=True):
    """Requests that travel together."""

    batch: int
    """Number chosen by the sender; the replies carry it."""
    timeout_ms: int
    requests: list[Message | Error]
    """An Error stands where a request could not be read (an enum value newer than this contract, say): it is that
    item's outcome, and the others' requests are none the worse for it."""
    traceparents: list[str]
    """Empty, or one per request."""
    baggage: str = ""
    """Of all of them: requests with different baggage do not travel together."""


class BatchReply(msgspec.Struct, frozen=True):
    """Some of a batch's outcomes. Several replies may answer one batch."""

    batch: int
    outcomes: list[tuple[int, Message | Error]]
    """Index of the request within its batch, and what became of it; in no particular order."""


class BatchCodec:
    """Frames of one batched method to bytes and back. Get it from `batch_codec`, which keeps it."""

    def __init__(self, method: Method) -> None:
        if not method.max_batch:
            raise TypeError(f"{method.service}.{method.attribute} is not batched: declare it with @batched")
        messages, enums, classes = wire_classes([method.request, method.response], method)
        self._method = method
        self._mapper = mapper = Mapper(messages, enums)
        request_name, reply_name = batch_names(method)
        self._request_frame: Any = classes[request_name]
        self._reply_frame: Any = classes[reply_name]
        self._write_request, self._read_request = mapper.write[method.request], mapper.read[method.request]
        self._write_reply, self._read_reply = mapper.write[method.response], mapper.read[method.response]

    def encode_request(
        self,
        batch: int,
        timeout_ms: int,
        requests: Sequence[Message],
        traceparents: Sequence[str] = (),
        baggage: str = "",
    ) -> bytes:
        """One frame. `traceparents` is empty or as long as `requests`. Errors as for `Codec.encode`."""
        assert len(traceparents) in (0, len(requests))
        frame = self._request_frame()
        frame.batch = batch
        frame.timeout_ms = min(timeout_ms, _UINT32)
        if traceparents:
            frame.traceparents.extend(traceparents)
        if baggage:
            frame.baggage = baggage
        add, write = frame.requests.add, self._write_request
        try:
            for request in requests:
                write(request, add())
        except WRITE_FAILURES:
            for index, request in enumerate(requests):
                if found := explain_write(self._mapper, self._method.request, request, f"requests[{index}]."):
                    raise found from None
            raise
        return self._bytes(frame)

    def decode_request(self, data: bytes) -> BatchRequest:
        """The frame in `data`; Invalid (`malformed`) if it is none. Bounds are `Codec.validate`'s business."""
        frame = self._request_frame()
        try:
            frame.ParseFromString(data)
        except DecodeError as error:
            raise malformed(frame.DESCRIPTOR.name, error) from None
        traceparents = frame.traceparents[:]
        if traceparents and len(traceparents) != len(frame.requests):
            reason = f"{len(traceparents)} traceparents for {len(frame.requests)} requests"
            raise malformed(frame.DESCRIPTOR.name, ValueError(reason))
        read = self._read_request
        requests: list[Message | Error]
        try:
            requests = [read(proto) for proto in frame.requests]
        except (Absent, KeyError):
            requests = [self._read_one(self._method.request, proto) for proto in frame.requests]
        return BatchRequest(frame.batch, frame.timeout_ms, requests, traceparents, frame.baggage)

    def _bytes(self, frame: Any) -> bytes:
        try:
            return cast(bytes, frame.SerializeToString())
        except EncodeError:
            raise too_deep(frame.DESCRIPTOR.name) from None

    def _read_one(self, kind: type[Message], proto: Any) -> Message | Error:
        try:
            return cast(Message, self._mapper.read[kind](proto))
        except (Absent, KeyError) as error:
            found = explain_read(self._mapper, kind, proto)
            if found is None:
                raise AssertionError(f"{kind.__name__} cannot be read, and why is not found again") from error
            return found

    def encode_reply(self, batch: int, outcomes: Sequence[Message | Error], start: int = 0) -> bytes:
        """Outcomes of the requests `start`, `start + 1`, ... of a batch. Errors as for `Codec.encode`."""
        frame = self._reply_frame()
        frame.batch = batch
        add, write, indexes = frame.replies.add, self._write_reply, list[int]()
        index = start
        try:
            for index, outcome in enumerate(outcomes, start):
                if isinstance(outcome, Error):
                    _write_error(frame.errors.add(), index, outcome)
                else:
                    write(outcome, add())
                    indexes.append(index)
        except WRITE_FAILURES as error:
            found = explain_write(self._mapper, self._method.response, outcomes[index - start], f"replies[{index}].")
            raise found or error from None
        frame.reply_index.extend(indexes)
        return self._bytes(frame)

    def decode_reply(self, data: bytes) -> BatchReply:
        """The frame in `data`; Invalid (`malformed`) if it is none. An unreadable reply becomes its item's error."""
        frame = self._reply_frame()
        try:
            frame.ParseFromString(data)
        except DecodeError as error:
            raise malformed(frame.DESCRIPTOR.name, error) from None
        indexes, read = frame.reply_index[:], self._read_reply
        if len(indexes) != len(frame.replies):
            raise malformed(
                frame.DESCRIPTOR.name, ValueError(f"{len(indexes)} indexes for {len(frame.replies)} replies")
            )
        outcomes: list[tuple[int, Message | Error]]
        try:
            outcomes = [(index, read(proto)) for index, proto in zip(indexes, frame.replies, strict=True)]
        except (Absent, KeyError):
            outcomes = [
                (index, self._read_one(self._method.response, proto))
                for index, proto in zip(indexes, frame.replies, strict=True)
            ]
        if frame.errors:
            outcomes += [(error.index, _read_error(error)) for error in frame.errors]
        return BatchReply(frame.batch, outcomes)


def _write_error(proto: Any, index: int, error: Error) -> None:
    proto.index = index
    proto.family = error.family
    proto.code = error.code
    # An error must always get through, whatever text some library put into it.
    proto.message = error.message.encode("utf-8", "replace").decode()
    for name, value in error.fields.items():
        proto.fields[name] = str(value).encode("utf-8", "replace").decode()
    if error.retry_after_s is not None:
        proto.retry_after_ms = max(0, min(round(error.retry_after_s * 1000), _UINT32))


def _read_error(proto: Any) -> Error:
    retry_after_s = proto.retry_after_ms / 1000 if proto.retry_after_ms else None
    return error_from(proto.family, proto.code, proto.message, dict(proto.fields.items()), retry_after_s)


@functools.cache
def _batch_codec(method: Method) -> BatchCodec:
    return BatchCodec(method)


def batch_codec(method: Method) -> BatchCodec:
    """The frames of a batched method; built on first use and kept. TypeError if the method is not batched."""
    return _batch_codec(method)
