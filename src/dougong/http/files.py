"""Pages that an app brings along: a handful of files, known when the front is built."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from dougong.http.asgi import COMMON_HEADERS, Headers, Reply

__all__ = ["PAGE_POLICY", "File", "Files"]

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self' ws: wss:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""A page loads what lies beside it, talks to where it came from and to gateways, and runs no inline script."""


class File(msgspec.Struct, frozen=True):
    """What is answered at one path."""

    kind: str
    """Content type, e.g. `text/html; charset=utf-8`."""
    content: bytes
    policy: str = PAGE_POLICY
    """Its content security policy."""


class Files:
    """Files by path, with tags, so that a browser asks whether its copy is fresh and loads nothing twice."""

    def __init__(self, files: Mapping[str, File]) -> None:
        self._files = {path: (file, _tag(file)) for path, file in files.items()}

    def get(self, path: str, headers: Headers) -> Reply:
        """The reply for one of the paths; 304 when the browser has it already."""
        file, tag = self._files[path]
        answered = [(b"etag", tag), (b"cache-control", b"no-cache")]
        if headers.get(b"if-none-match") == tag:
            return Reply(304, answered, b"", COMMON_HEADERS)
        answered += [(b"content-type", file.kind.encode()), (b"content-security-policy", file.policy.encode())]
        return Reply(200, answered, file.content, COMMON_HEADERS)


def _tag(file: File) -> bytes:
    return b'"%s"' % hashlib.sha256(file.content).hexdigest()[:16].encode()
