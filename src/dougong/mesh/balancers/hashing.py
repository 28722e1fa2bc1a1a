"""The 64-bit key of a call, and the hash behind it.

The hash is XXH64 with seed 0, because Envoy's is: the same file, the same header value and the same addresses lead to
the same host in process and behind a sidecar, so that a cache stays warm when a service moves from one to the other.
It comes from the `xxhash` package (C, a tenth of a microsecond); Python's own `hash` differs from process to process,
and `hashlib` has nothing that Envoy has.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import parse_qs, urlsplit

from xxhash import xxh64_intdigest

from dougong.mesh.policy import HashOn, HashSource

__all__ = ["call_key", "hash64"]


def hash64(text: str, seed: int = 0) -> int:
    """XXH64 of the UTF-8 bytes."""
    return xxh64_intdigest(text.encode(), seed)


def call_key(
    on: HashOn, metadata: Sequence[tuple[str, str]] = (), *, path: str = "", source_ip: str = ""
) -> int | None:
    """What a call is hashed by; None when it has nothing to hash (it then goes anywhere).

    `metadata` are header names in lower case with values, `path` may carry a query. Several values of one header are
    sorted first, so that their order does not matter. A cookie that is missing and has a time to live is made up from
    `source_ip`: the same caller keeps its host, as with the cookie that Envoy would hand out.
    """
    if on.source is HashSource.HEADER:
        name = on.name.lower()
        values = sorted(value for key, value in metadata if key == name)
        seed = 0
        for value in values:
            seed = hash64(value, seed)
        return seed if values else None
    if on.source is HashSource.COOKIE:
        value = _cookie(metadata, on.name)
        if not value and on.ttl_s > 0:
            value = f"{hash64(source_ip):x}"
        return hash64(value) if value else None
    if on.source is HashSource.QUERY_PARAMETER:
        found = parse_qs(urlsplit(path).query, keep_blank_values=True).get(on.name)
        return hash64(found[0]) if found else None
    return hash64(source_ip) if source_ip else None


def _cookie(metadata: Sequence[tuple[str, str]], name: str) -> str:
    for key, line in metadata:
        if key == "cookie":
            for part in line.split(";"):
                found, _, value = part.strip().partition("=")
                if found == name:
                    return value.strip('"')
    return ""
