"""A URL becomes a store."""

from __future__ import annotations

from dougong.clock import Clock, SystemClock
from dougong.errors import Invalid
from dougong.store._protocol import Store
from dougong.store._url import parse_sqlite_url

__all__ = ["open_store"]


async def open_store(url: str, *, name: str = "", clock: Clock | None = None, queued_max: int = 10_000) -> Store:
    """Open the database behind `url`, e.g. `sqlite:///data/orders.db`; a missing file is created, a directory is not.

    `name` is for messages and metrics (default: the file's name). At most `queued_max` units wait for the writer, more
    are refused with `Overloaded`. Raises `Invalid` (code `bad_database_url`), or `Unavailable` naming the file and what
    is wrong with it. Close what you opened.
    """
    clock = clock if clock is not None else SystemClock()
    scheme = url.partition(":")[0]
    if scheme == "sqlite":
        from dougong.store.sqlite import SqliteStore

        options = parse_sqlite_url(url)
        return await SqliteStore.open(options, name=name or options.path.stem, clock=clock, queued_max=queued_max)
    raise Invalid(
        f"{url!r}: no engine for {scheme!r} databases here; there is sqlite:///path/to/file.db",
        code="bad_database_url",
        url=url,
    )
