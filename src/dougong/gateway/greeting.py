"""The opening handshake of WebSocket (RFC 6455, section 4), client's side, without I/O.

What is refused comes as an HTTP answer, and is one of `dougong.errors` here: the caller learns what to do about it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from dougong.errors import FAMILIES, Error, Forbidden, Internal, Invalid, NotFound, Unavailable
from dougong.gateway.handshake import PLAIN

__all__ = ["ANSWER_BYTES_MAX", "Address", "Answer", "ask", "check_answer", "new_key", "read_address", "read_answer"]

ANSWER_BYTES_MAX = 32 * 1024
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_BODY_BYTES_MAX = 4096
_DIGITS_MAX = 20
_BY_STATUS: dict[int, type[Error]] = {
    **{kind.http_status: kind for kind in FAMILIES.values() if kind is not Internal},
    408: Unavailable,
    502: Unavailable,
}


class Address(msgspec.Struct, frozen=True):
    """Where a gateway is."""

    host: str
    port: int
    tls: bool
    target: str
    """Path and query."""
    plain: bool = False
    """Plain frames instead of WebSocket's."""

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


class Answer(msgspec.Struct, frozen=True):
    """The head of an HTTP answer."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name."""

    @property
    def body_bytes(self) -> int:
        """How much of the body is worth reading: a sentence."""
        size = self.headers.get("content-length", "0")
        if not size.isascii() or not size.isdigit():
            return 0
        return min(int(size), _BODY_BYTES_MAX) if len(size) < _DIGITS_MAX else _BODY_BYTES_MAX  # int() has a limit


def read_address(url: str) -> Address:
    """`ws://host:port/live` or `wss://…`; `tcp://…` or `tls://…` for plain frames. Raises `Invalid`."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Invalid(f"{url!r} is no URL: {error}", code="bad_url") from None
    if (
        parts.scheme not in ("ws", "wss", "tcp", "tls")
        or not parts.hostname
        or not url.isascii()
        or not url.isprintable()
    ):
        raise Invalid(f"{url!r} is no address of a gateway, e.g. ws://127.0.0.1:8700/live", code="bad_url")
    tls, plain = parts.scheme in ("wss", "tls"), parts.scheme in ("tcp", "tls")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Address(parts.hostname, port or (443 if tls else 80), tls, target, plain)


def new_key(random: bytes) -> str:
    """The handshake's key, of 16 random bytes."""
    return base64.b64encode(random).decode()


def ask(address: Address, key: str, headers: Mapping[str, str]) -> bytes:
    """The request. Raises `Invalid` for headers that would be more than one line."""
    lines = [
        f"GET {address.target} HTTP/1.1",
        f"Host: {address.authority}",
        f"Upgrade: {PLAIN if address.plain else 'websocket'}",
        "Connection: Upgrade",
    ]
    if not address.plain:
        lines += (f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13")
    for name, value in headers.items():
        if not f"{name}{value}".isprintable() or not f"{name}{value}".isascii():
            raise Invalid(f"the header {name!r} has characters that no header has", code="bad_header")
        lines.append(f"{name}: {value}")
    return "\r\n".join(lines).encode("ascii") + b"\r\n\r\n"


def read_answer(head: bytes) -> Answer:
    """A complete head. Raises `Unavailable` when it is no HTTP."""
    first, *rest = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    version, _, tail = first.partition(" ")
    status = tail[:3]
    if not version.startswith("HTTP/1.") or not (status.isascii() and status.isdigit()) or len(status) != 3:
        raise Unavailable("what answered does not speak HTTP; is the address right?", code="no_gateway")
    headers = {}
    for line in rest:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return Answer(int(status), headers)


def check_answer(answer: Answer, key: str, body: bytes = b"", *, plain: bool = False) -> None:
    """Nothing when the connection is what was asked for. Raises what the refusal means, with the gateway's code."""
    if answer.status == 101 and plain:
        if answer.headers.get("upgrade", "").lower() != PLAIN:
            raise Unavailable("what answered agreed to something that nobody asked for", code="no_gateway")
        return
    if answer.status == 101:
        wanted = base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()
        if answer.headers.get("sec-websocket-accept") != wanted:
            raise Unavailable("what answered agreed to a WebSocket that nobody asked for", code="no_gateway")
        if "sec-websocket-extensions" in answer.headers or answer.headers.get("upgrade", "").lower() != "websocket":
            raise Unavailable("what answered agreed to something that nobody asked for", code="no_gateway")
        return
    said = body.decode(errors="replace").strip() or f"HTTP {answer.status}"
    code, colon, message = said.partition(": ")
    if not (colon and code.isidentifier()):
        code, message = "", said
    after = answer.headers.get("retry-after", "")
    pause_s = float(after) if after.isascii() and after.isdigit() else None
    kind = _BY_STATUS.get(answer.status)
    if kind is None:
        kind = Unavailable if answer.status >= 500 else Invalid
    raise kind(message, code=code or _code_of(kind), retry_after_s=pause_s, status=answer.status)


def _code_of(kind: type[Error]) -> str:
    """For refusals before anybody was asked who it is: those come without a code."""
    if kind is NotFound:
        return "no_gateway"
    return "origin_forbidden" if kind is Forbidden else kind.family
