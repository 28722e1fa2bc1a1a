"""Reading a request's body: bounded in bytes and in time, and only when it is JSON.

A `Content-Length` over the limit is refused before a byte is read; a chunked body is counted while it arrives. A body
that trickles in holds one deadline for the whole of it, so sending a byte now and then gains nothing.
"""

from __future__ import annotations

import asyncio
from typing import cast

from dougong.errors import Invalid
from dougong.http.asgi import Headers, Receive
from dougong.http.problem import TooLarge, UnsupportedMediaType

__all__ = ["ClientGone", "check_head", "drain_body", "read_body"]

DRAIN_BYTES = 4 << 20
DRAIN_S = 1.0


class ClientGone(Exception):
    """The client closed the connection before it had its answer. No error of anybody's: nobody is left to tell."""


def check_head(headers: Headers, *, takes_body: bool, max_bytes: int) -> int:
    """Judge the body by the headers alone; how many bytes to expect, -1 when they do not say."""
    length = headers.get(b"content-length")
    if length is None:
        size = -1 if b"transfer-encoding" in headers else 0
    else:
        if not length.isdigit() or len(length) > 19:
            raise Invalid("Content-Length is not a number", code="malformed_header", field="Content-Length")
        size = int(length)
        if size > max_bytes:
            raise _too_large(max_bytes)
    if size == 0:
        return 0
    if not takes_body:
        raise Invalid("this method takes no body", code="unexpected_body", source="body")
    kind = headers.get(b"content-type")
    if kind != b"application/json":
        _check_type(kind)
    encoding = headers.get(b"content-encoding")
    if encoding is not None and encoding.strip().lower() not in {b"", b"identity"}:
        raise UnsupportedMediaType(
            f"Content-Encoding {encoding.decode('latin-1')!r} is not taken; send the body as it is",
            code="unsupported_encoding",
        )
    return size


async def read_body(receive: Receive, *, max_bytes: int) -> bytes:
    """The whole body. Raises `TooLarge` and `ClientGone`; how long it may take is the caller's business."""
    event = await receive()
    chunk = cast(bytes, event.get("body", b""))
    if not event.get("more_body", False) and event["type"] == "http.request" and len(chunk) <= max_bytes:
        return chunk
    whole = bytearray()  # one buffer: a list of one-byte chunks would weigh forty times the body
    while True:
        if event["type"] == "http.disconnect":
            raise ClientGone
        whole += cast(bytes, event.get("body", b""))
        if len(whole) > max_bytes:
            raise _too_large(max_bytes)
        if not event.get("more_body", False):
            return bytes(whole)
        event = await receive()


async def drain_body(receive: Receive) -> None:
    """Read on a little after a refusal: closing on unread bytes resets the connection, and the client, still sending,
    might never see why."""
    size = 0
    try:
        async with asyncio.timeout(DRAIN_S):
            while size < DRAIN_BYTES:
                event = await receive()
                if event["type"] == "http.disconnect" or not event.get("more_body", False):
                    return
                size += len(cast(bytes, event.get("body", b"")))
    except TimeoutError:
        return


def _check_type(kind: bytes | None) -> None:
    if kind is None:
        raise UnsupportedMediaType("Content-Type is missing; send application/json", code="unsupported_media_type")
    media, _, parameters = kind.partition(b";")
    media = media.strip().lower()
    if media != b"application/json" and not (media.startswith(b"application/") and media.endswith(b"+json")):
        raise UnsupportedMediaType(
            f"Content-Type {kind[:100].decode('latin-1')!r} is not taken; send application/json",
            code="unsupported_media_type",
        )
    charset = parameters.strip().lower().replace(b'"', b"")
    if charset.startswith(b"charset=") and charset[8:] not in {b"utf-8", b"utf8", b"us-ascii"}:
        raise UnsupportedMediaType("JSON is UTF-8; send it so", code="unsupported_charset")


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(
        f"the body is too large; at most {max_bytes} bytes are taken",
        code="body_too_large",
        max_bytes=max_bytes,
    )
