"""Which databases there are: read from configuration, never from the network.

The bucket map names databases, this names their URLs (which hold passwords, so they are not in the map).
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from urllib.parse import quote

import msgspec

from dougong.errors import Invalid, NotFound
from dougong.shard.buckets import BUCKETS
from dougong.store import check_database_url

__all__ = ["Layout", "embedded_layout", "load_layout"]


class Layout(msgspec.Struct, frozen=True):
    """One logical database and the physical ones it lies in."""

    name: str
    """For messages and metrics."""
    metadata: str
    """URL of the database that keeps the bucket map."""
    databases: dict[str, str]
    """Name → URL. A database that has buckets must keep its name."""
    routing: str = "modulo"
    """Name of the strategy: `modulo`, `consistent-hash` or `mapping`."""
    spare_buckets: int = 0
    """With `mapping`: so many buckets get no keys by themselves (see `MappingRouting`)."""
    pattern: str = ""
    """URL with `{number}` that databases added later have, when they are numbered."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.databases) <= BUCKETS:
            raise Invalid(
                f"{self.name}: {BUCKETS} buckets lie in 1 to {BUCKETS} databases, not {len(self.databases)}",
                code="bad_layout",
            )
        if len({self.metadata, *self.databases.values()}) <= len(self.databases):
            raise Invalid(f"{self.name}: two names have the same URL; each is a database of its own", code="bad_layout")
        for url in (self.metadata, *self.databases.values()):
            check_database_url(url)
        if len({url.partition(":")[0] for url in self.databases.values()}) > 1:
            raise Invalid(
                f"{self.name}: all databases must be of one kind, SQL differs between them", code="bad_layout"
            )

    @classmethod
    def numbered(
        cls, name: str, *, url: str, count: int, metadata: str, routing: str = "modulo", spare_buckets: int = 0
    ) -> Layout:
        """`db-0` to `db-(count - 1)`, each at `url` with its number in the place of `{number}`.

        Numbers are written as Python writes them: `{number:03}` gives 007.
        """
        try:
            urls = {f"db-{number}": url.format(number=number) for number in range(count)}
        except (LookupError, ValueError) as error:
            raise Invalid(
                f"{name}: {{number}} is all that a URL pattern may hold ({error})", code="bad_layout"
            ) from None
        return cls(name, metadata, urls, routing, spare_buckets, url)

    def url_of(self, database: str) -> str | None:
        """Where a database is, also one that was added after this layout was read; None when nobody knows."""
        number = database.removeprefix("db-")
        if database in self.databases or not self.pattern or not number.isdecimal():
            return self.databases.get(database)
        return self.pattern.format(number=int(number)) if str(int(number)) == number else None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    metadata: str
    url: str = ""
    count: int = 0
    databases: dict[str, str] = {}
    routing: str = "modulo"
    spare_buckets: int = 0


def embedded_layout(directory: Path, name: str, *, databases: int = 4, routing: str = "modulo") -> Layout:
    """SQLite files in one directory: `NAME.map.db` and `NAME.db-0.db` onwards, and those that were added since."""
    there = [int(file.name.split(".db-")[-1][:-3]) for file in directory.glob(f"{name}.db-[0-9]*.db")]
    databases = max(databases, *(number + 1 for number in there)) if there else databases
    base = f"sqlite:///{quote(str(directory.absolute() / name)).replace('{', '{{').replace('}', '}}')}"
    return Layout.numbered(
        name, url=base + ".db-{number}.db", count=databases, metadata=base.format() + ".map.db", routing=routing
    )


def load_layout(file: Path) -> Layout:
    """From TOML: `name`, `metadata`, `routing`, and either `url` with `count` (see `Layout.numbered`) or `[databases]`.

    Raises `NotFound`, or `Invalid` (code `bad_layout`) saying what is wrong with it.
    """
    try:
        read = msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), _File)
    except FileNotFoundError:
        raise NotFound(f"there is no layout {file}", code="no_layout") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise Invalid(f"layout {file}: {error}", code="bad_layout") from None
    if bool(read.url) == bool(read.databases):
        raise Invalid(f"layout {file}: give either url and count, or [databases]", code="bad_layout")
    if read.url:
        return Layout.numbered(
            read.name,
            url=read.url,
            count=read.count,
            metadata=read.metadata,
            routing=read.routing,
            spare_buckets=read.spare_buckets,
        )
    return Layout(read.name, read.metadata, read.databases, read.routing, read.spare_buckets)
