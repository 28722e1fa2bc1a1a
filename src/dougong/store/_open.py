"""A URL becomes a store."""

from __future__ import annotations

import time

from dougong.clock import Clock, SystemClock
from dougong.errors import Invalid
from dougong.store._dial import Dialer
from dougong.store._link import Engine
from dougong.store._pool import Pool
from dougong.store._protocol import Store
from dougong.store._server_url import ServerOptions, parse_server_url, redacted
from dougong.store._url import parse_sqlite_url

__all__ = ["check_database_url", "open_pool", "open_store"]


async def open_store(
    url: str, *, name: str = "", clock: Clock | None = None, queued_max: int = 10_000, group_max: int = 512
) -> Store:
    """Open the database behind `url`.

    `sqlite:///data/orders.db`: a missing file is created, a directory is not. `mysql://user:password@host/orders`
    (MySQL or MariaDB; needs the extra `mysql`) and `postgresql://user:password@host/orders` (extra `postgres`): the
    database has to be there.

    `name` is for messages and metrics (default: the database's name). At most `queued_max` units wait for the writer,
    more are refused with `Overloaded`; at most `group_max` share a commit. Raises `Invalid` (codes `bad_database_url`,
    `not_durable`), or `Unavailable` naming the database and what is wrong with it. Close what you opened.
    """
    clock = clock if clock is not None else SystemClock()
    scheme = url.partition(":")[0]
    if scheme == "sqlite":
        from dougong.store.sqlite import SqliteStore

        options = parse_sqlite_url(url)
        return await SqliteStore.open(
            options, name=name or options.path.stem, clock=clock, queued_max=queued_max, group_max=group_max
        )
    if scheme in ("mysql", "postgresql"):
        from dougong.store.server import ServerStore

        server = parse_server_url(url)
        return await ServerStore.open(
            _engine(server), name=name or server.database, clock=clock, queued_max=queued_max, group_max=group_max
        )
    raise _unknown(url)


def open_pool(url: str, *, name: str = "", clock: Clock | None = None, waiting_max: int = 10_000) -> Pool:
    """A pool of connections for reading the database behind `url`, on a MySQL, MariaDB or PostgreSQL server.

    For who needs one connection for several statements; a store has a pool of its own. Nothing is connected before the
    first `acquire`. Raises `Invalid` (code `bad_database_url`). Close what you opened.
    """
    if url.partition(":")[0] not in ("mysql", "postgresql"):
        check_database_url(url)
        raise Invalid(
            f"{redacted(url)!r}: only databases on servers have a pool; SQLite is read on the spot",
            code="bad_database_url",
            url=redacted(url),
        )
    server, now = parse_server_url(url), time.monotonic if clock is None else clock.monotonic
    name = name or server.database
    return Pool(Dialer(_engine(server), name=name, now=now), name=name, waiting_max=waiting_max, now=now)


def check_database_url(url: str) -> None:
    """Refuse what `open_store` would not understand (`Invalid`, code `bad_database_url`); connects to nothing."""
    scheme = url.partition(":")[0]
    if scheme == "sqlite":
        parse_sqlite_url(url)
    elif scheme in ("mysql", "postgresql"):
        parse_server_url(url)
    else:
        raise _unknown(url)


def _unknown(url: str) -> Invalid:
    scheme = redacted(url).partition(":")[0]
    return Invalid(
        f"{redacted(url)!r}: no engine for {scheme!r} databases here; there are sqlite:///path/to/file.db,"
        " mysql://user:password@host/database and postgresql://user:password@host/database",
        code="bad_database_url",
        url=redacted(url),
    )


def _engine(options: ServerOptions) -> Engine:
    extra = {"mysql": "mysql", "postgresql": "postgres"}[options.dialect]
    try:
        if options.dialect == "mysql":
            from dougong.store.mysql import MySQLEngine

            return MySQLEngine(options)
        from dougong.store.postgresql import PostgreSQLEngine

        return PostgreSQLEngine(options)
    except ImportError as error:
        raise Invalid(
            f"the driver for {options.dialect} is not installed ({error}); pip install 'dougong[{extra}]'",
            code="driver_missing",
        ) from error
