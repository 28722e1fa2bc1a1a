"""Errors on the gRPC wire: the one place where Dougong's families meet status codes.

Out: status code by family, `google.rpc.Status` in the trailers with `ErrorInfo` (our code and fields) and `RetryInfo`,
so that a client in any language can read the details with its stock library. In: the same way back; a status without
details came from gRPC itself or from a stranger and is mapped by its code alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast
from urllib.parse import quote

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from dougong.errors import (
    Conflict,
    DeadlineExceeded,
    Error,
    Forbidden,
    Internal,
    Invalid,
    NotFound,
    Overloaded,
    Scalar,
    Unauthenticated,
    Unavailable,
)
from dougong.rpc._transport import Lost, connection_lost

__all__ = ["from_status", "to_status"]

DETAILS_KEY = "grpc-status-details-bin"
DOMAIN = "dougong"
TURNED_AWAY = "dougong.turned-away"  # ErrorInfo domain of a refusal before anything was done: safe to try elsewhere
_PLAIN = "".join(chr(byte) for byte in range(0x20, 0x7F) if byte != 0x25)  # what gRPC leaves as it is
_CODES = {code.value[0]: code for code in grpc.StatusCode}
# Peers drop the whole answer when its metadata passes 8 KiB, in which the text counts twice (once percent-encoded) and
# the details by their size in base64.
_TEXT_MAX = 1024
_FIELDS_MAX = 2048
_REFUSED = (
    "Stream removed (RST_STREAM (Received RST_STREAM with error code 7))",
    "Stream removed (GOAWAY received;",
)
"""gRPC's words for what HTTP/2 promises was not processed: REFUSED_STREAM, and streams after the last one of a GOAWAY.
A connection that broke after a GOAWAY reads "Stream removed (Socket closed (GOAWAY ...", and promises nothing."""
_BROKEN = "Internal error from Core"  # grpc.aio, of a write to a call that has ended; it hides the call's own status

_BY_CODE: dict[int, type[Error]] = {
    3: Invalid,
    4: DeadlineExceeded,
    5: NotFound,
    6: Conflict,  # ALREADY_EXISTS
    7: Forbidden,
    8: Overloaded,
    9: Conflict,  # FAILED_PRECONDITION
    10: Conflict,
    11: Invalid,  # OUT_OF_RANGE
    14: Unavailable,
    16: Unauthenticated,
}


def to_status(error: Error | Lost) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Status code, text and trailing metadata."""
    domain = DOMAIN
    if isinstance(error, Lost):
        domain = DOMAIN if error.started else TURNED_AWAY
        error = error.error
    text = _cut(error.message)
    info = error_details_pb2.ErrorInfo(reason=error.code, domain=domain)
    left = _FIELDS_MAX
    for name, value in error.fields.items():
        written = _write(value)
        left -= len(name) + len(written.encode())
        if left < 0:
            break
        info.metadata[name] = written
    status = status_pb2.Status(code=error.grpc_status, message=text)
    _pack(status.details.add(), info)
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMicroseconds(round(error.retry_after_s * 1e6))
        _pack(status.details.add(), error_details_pb2.RetryInfo(retry_delay=delay))
    return _CODES[error.grpc_status], text, ((DETAILS_KEY, status.SerializeToString()),)


def from_status(error: grpc.aio.AioRpcError, address: str) -> Error | Lost:
    """The `Error` the other side raised, or `Lost` when gRPC could not bring an answer."""
    code = int(error.code().value[0])
    text = error.details() or ""
    for key, value in cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ()):
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return _rebuild(code, status_pb2.Status.FromString(value))
            except DecodeError:  # a stranger's details: the code is enough
                break
    if code == 14 and text.startswith(_REFUSED):
        refusal = Unavailable(f"{address} did not take the call: {text}", code="refused_stream", address=address)
        return Lost(refusal, started=False)
    if code == 14 or text == _BROKEN:
        return connection_lost(address, text)
    if code == 1:  # CANCELLED, and not by us: the other side let go of the call
        return connection_lost(address, text or "cancelled")
    if code == 8 and "larger than max" in text:
        return Invalid(f"{text} bytes", code="message_too_large")
    if code == 12:
        return Internal(f"{address} has no such method: {text}", code="unimplemented")
    if code == 4:
        return DeadlineExceeded(f"{address} did not answer in time: outcome unknown")
    return _BY_CODE.get(code, Internal)(text or f"gRPC status {code} from {address}")


def _rebuild(code: int, status: status_pb2.Status) -> Error | Lost:
    error = _BY_CODE.get(code, Internal)(status.message)
    turned_away = False
    for detail in status.details:
        kind = detail.TypeName()
        if kind == "google.rpc.ErrorInfo":
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            error.code = info.reason or error.code
            error.fields.update({name: _read(value) for name, value in info.metadata.items()})
            turned_away = info.domain == TURNED_AWAY
        elif kind == "google.rpc.RetryInfo":
            retry = error_details_pb2.RetryInfo.FromString(detail.value)
            error.retry_after_s = retry.retry_delay.ToMicroseconds() / 1e6
    return Lost(error, started=False) if turned_away else error


def _cut(text: str) -> str:
    """As much as fits: a character beyond ASCII takes up to twelve bytes."""
    if len(text) * 12 <= _TEXT_MAX:
        return text
    while len(quote(text, safe=_PLAIN)) > _TEXT_MAX:
        text = text[: min(len(text) * 3 // 4, _TEXT_MAX)]
    return text


def _pack(detail: any_pb2.Any, message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> None:
    detail.Pack(message)


def _write(value: Scalar) -> str:
    return value if isinstance(value, str) else str(value)


def _read(text: str) -> Scalar:
    return text
