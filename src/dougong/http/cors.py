"""Which other web pages may call this API from a browser (CORS). Nobody, unless told."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dougong.http.asgi import Headers

__all__ = ["Cors"]

_EXPOSED = b"x-request-id, retry-after"


class Cors(msgspec.Struct, frozen=True):
    """Origins like `https://shop.example` (exact), or `*` for all. Tokens travel in headers: cookies are not."""

    origins: tuple[str, ...]
    headers: tuple[str, ...] = ("authorization", "content-type", "idempotency-key", "x-request-id", "traceparent")
    max_age_s: int = 600

    def response_headers(self, request: Headers) -> Sequence[tuple[bytes, bytes]]:
        """Headers for any response to this request. `Vary` even without an origin, for caches in between."""
        origin = request.get(b"origin")
        vary = (b"vary", b"origin")
        if origin is None or not self._allows(origin):
            return (vary,)
        return (vary, (b"access-control-allow-origin", origin), (b"access-control-expose-headers", _EXPOSED))

    def preflight_headers(self, request: Headers, allow: str) -> list[tuple[bytes, bytes]]:
        """Further headers for the answer to a preflight; none for an ordinary OPTIONS."""
        origin = request.get(b"origin")
        if origin is None or b"access-control-request-method" not in request or not self._allows(origin):
            return []
        return [
            (b"access-control-allow-methods", allow.encode("ascii")),
            (b"access-control-allow-headers", ", ".join(self.headers).encode("ascii")),
            (b"access-control-max-age", b"%d" % self.max_age_s),
        ]

    def _allows(self, origin: bytes) -> bool:
        return "*" in self.origins or origin.decode("latin-1") in self.origins
