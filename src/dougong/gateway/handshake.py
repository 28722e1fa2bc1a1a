"""The opening handshake of WebSocket (RFC 6455, section 4), server's side, without I/O.

An HTTP request head in, a decision out. The head is bounded before it is parsed: 8 KiB a line, 128 headers. What is
refused is refused with an HTTP status and a sentence, because at this point the peer still speaks HTTP.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl, urlsplit

import msgspec

__all__ = [
    "HEADERS_MAX",
    "HEAD_BYTES_MAX",
    "LINE_BYTES_MAX",
    "PLAIN",
    "Refused",
    "Upgrade",
    "accept",
    "end_of_head",
    "read_head",
]

LINE_BYTES_MAX = 8 * 1024
HEADERS_MAX = 128
HEAD_BYTES_MAX = 32 * 1024
PLAIN = "dougong"
"""What `Upgrade` says of who wants plain frames (see `plain`)."""
_PARAMETERS_MAX = 32
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_REASONS = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    426: "Upgrade Required",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


class Refused(Exception):
    """No upgrade: `response` is what to send before closing."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status
        self.reason = reason
        self.headers = dict(headers or {})

    @property
    def response(self) -> bytes:
        body = (self.reason + "\n").encode()
        lines = [
            f"HTTP/1.1 {self.status} {_REASONS.get(self.status, 'Refused')}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
            "Content-Type: text/plain; charset=utf-8",
            f"Content-Length: {len(body)}",
            "Connection: close",
        ]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


class Upgrade(msgspec.Struct, frozen=True, kw_only=True):
    """A request to become a WebSocket, checked as far as the protocol goes."""

    path: str
    """As sent, without the query."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """By lower-case name; of those that came more than once, all values with commas between."""
    key: str
    protocols: Sequence[str]
    """Subprotocols that the client offers, the dearest first."""
    plain: bool = False
    """Frames are to be those of `plain`, not WebSocket's."""

    @property
    def origin(self) -> str | None:
        """Who wrote the page that connects; None when no browser does."""
        return self.headers.get("origin")


def end_of_head(data: bytes, searched: int = 0) -> int:
    """Where the body would begin; -1 while the head is not complete. Raises `Refused` when it will be too long.

    `searched` bytes were looked through before.
    """
    at = data.find(b"\r\n\r\n", max(0, searched - 3))
    if max(at, len(data) if at < 0 else 0) > HEAD_BYTES_MAX:
        raise Refused(431, f"request head of over {HEAD_BYTES_MAX} bytes")
    return at + 4 if at >= 0 else -1


def read_head(head: bytes) -> Upgrade:
    """Read a complete head. Raises `Refused`."""
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n", HEADERS_MAX + 1)
    if len(lines) > HEADERS_MAX + 1:
        raise Refused(431, f"over {HEADERS_MAX} headers")
    if any(len(line) > LINE_BYTES_MAX for line in lines):
        raise Refused(431, f"a line of over {LINE_BYTES_MAX} bytes")
    target = _request_target(lines[0])
    headers = _headers(lines[1:])
    plain = PLAIN in _tokens(headers, "upgrade")
    key = _check_upgrade(headers, plain=plain)
    try:
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query, keep_blank_values=True, max_num_fields=_PARAMETERS_MAX))
    except ValueError as error:
        raise Refused(400, f"request target: {error}") from None
    offered = headers.get("sec-websocket-protocol", "")
    protocols = [name for part in offered.split(",") if (name := part.strip())]
    if not all(_TOKEN.issuperset(name.encode("latin-1")) for name in protocols):  # one of them goes into the answer
        raise Refused(400, "a subprotocol's name is no token")
    return Upgrade(
        path=parts.path,
        query=query,
        headers=headers,
        key=key,
        protocols=protocols,
        plain=plain,
    )


def accept(upgrade: Upgrade, *, protocol: str | None = None, headers: Mapping[str, str] | None = None) -> bytes:
    """The answer that makes the connection a WebSocket; `protocol` is one of those offered."""
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        f"Upgrade: {PLAIN if upgrade.plain else 'websocket'}",
        "Connection: Upgrade",
    ]
    if not upgrade.plain:
        digest = hashlib.sha1(upgrade.key.encode() + _GUID, usedforsecurity=False).digest()
        lines.append(f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}")
    if protocol is not None:
        lines.append(f"Sec-WebSocket-Protocol: {protocol}")
    lines += (f"{name}: {value}" for name, value in (headers or {}).items())
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def _request_target(line: bytes) -> str:
    parts = line.split(b" ")
    if len(parts) != 3:
        raise Refused(400, "the first line is no HTTP request")
    method, target, version = parts
    if not version.startswith(b"HTTP/"):
        raise Refused(400, "the first line is no HTTP request")
    if version != b"HTTP/1.1":
        raise Refused(505, "a WebSocket begins with HTTP/1.1")
    if method != b"GET":
        raise Refused(405, "a WebSocket begins with GET", {"Allow": "GET"})
    if not target.startswith(b"/") or not target.isascii() or not all(0x21 <= byte <= 0x7E for byte in target):
        raise Refused(400, "the request target must be a path of printable ASCII")
    return target.decode("ascii")


def _headers(lines: Sequence[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name, colon, value = line.partition(b":")
        if not colon or not name or not _TOKEN.issuperset(name):
            raise Refused(400, f"header {number} has no valid name")  # folded lines and spaces before colons as well
        text = value.strip(b" \t")
        if any((byte < 0x20 and byte != 0x09) or byte == 0x7F for byte in text):
            raise Refused(400, f"header {number} has a control character")
        key, decoded = name.decode("ascii").lower(), text.decode("latin-1")
        headers[key] = f"{headers[key]}, {decoded}" if key in headers else decoded
    return headers


def _check_upgrade(headers: Mapping[str, str], *, plain: bool) -> str:
    """The client's key; who asks for plain frames needs none."""
    if "," in headers.get("host", ",") or not headers["host"]:
        raise Refused(400, "one Host header is needed")
    if not (plain or "websocket" in _tokens(headers, "upgrade")) or "upgrade" not in _tokens(headers, "connection"):
        raise Refused(426, "this is a WebSocket: ask for an upgrade", {"Upgrade": "websocket", "Connection": "Upgrade"})
    if not plain and headers.get("sec-websocket-version") != "13":
        raise Refused(426, "only version 13 is spoken", {"Sec-WebSocket-Version": "13", "Upgrade": "websocket"})
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise Refused(400, "a WebSocket begins with a request without body")
    if plain:
        return ""
    key = headers.get("sec-websocket-key", "")
    try:
        nonce = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        nonce = b""
    if len(nonce) != 16:
        raise Refused(400, "Sec-WebSocket-Key must be 16 bytes in base64, once")
    return key


def _tokens(headers: Mapping[str, str], name: str) -> set[str]:
    return {token.strip().lower() for token in headers.get(name, "").split(",")}
