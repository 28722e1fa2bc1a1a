"""What `sqlite:////data/orders.db?synchronous=full` means, and clear refusals of what means nothing."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from dougong.errors import Invalid

__all__ = ["SqliteOptions", "parse_sqlite_url"]


_CACHE_MB_MAX = 65_536


class SqliteOptions(msgspec.Struct, frozen=True):
    """How one SQLite database is opened. The defaults are the safe ones: acknowledged means synced."""

    path: Path
    synchronous: str = "full"
    """`full`: every commit is synced. `normal` or `off` lose acknowledged writes when the machine loses power."""
    lock_timeout_s: float = 5.0
    """How long to wait while another process writes, before `Unavailable` (code `locked`)."""
    cache_mb: int = 16
    """How much of the file the writing connection may keep in memory, as far as it is used: inner pages of indexes that
    are read again and again. SQLite's own 2 MB cost the shop's orders a fifth of their throughput once the file had
    grown; 32 MB brought these no more than 16 and cost transactions over one hot row a tenth."""


def parse_sqlite_url(url: str) -> SqliteOptions:
    """SQLAlchemy's convention: three slashes and a relative path, or four and an absolute one.

    Options: `synchronous=full|normal|off`, `lock_timeout_s=SECONDS`, `cache_mb=1..65536`. Anything else is refused
    (`Invalid`, code `bad_database_url`).
    """
    parts = urlsplit(url)
    path = unquote(parts.path)[1:]
    if not url.startswith("sqlite:///") or parts.fragment:
        raise _bad(url, "write sqlite:///relative/path.db or sqlite:////absolute/path.db")
    if path in ("", ":memory:"):
        raise _bad(url, "an in-memory database cannot be durable or shared by reader and writer; name a file")
    synchronous, lock_timeout_s, cache_mb = "full", 5.0, 16
    try:
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise _bad(url, f"the options are not of the form name=value&name=value ({error})") from None
    for key, value in options:
        if key == "synchronous" and value in ("full", "normal", "off"):
            synchronous = value
        elif key == "lock_timeout_s" and value.replace(".", "", 1).isdigit():
            lock_timeout_s = float(value)
        elif key == "cache_mb" and value.isascii() and value.isdigit() and 1 <= int(value[:9]) <= _CACHE_MB_MAX:
            cache_mb = int(value)
        else:
            raise _bad(
                url,
                f"option {key}={value} is unknown; there are synchronous=full|normal|off, lock_timeout_s=5 and"
                " cache_mb=16",
            )
    return SqliteOptions(Path(path), synchronous, lock_timeout_s, cache_mb)


def _bad(url: str, remedy: str) -> Invalid:
    return Invalid(f"{url!r} is no database URL: {remedy}", code="bad_database_url", url=url)
