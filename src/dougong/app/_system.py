"""A system file: which apps make up a system, and how many of each."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import re
import tomllib
from pathlib import Path

import msgspec

from dougong.app._ports import parse_address
from dougong.errors import Invalid, NotFound
from dougong.shard import BUCKETS
from dougong.store import check_database_url

__all__ = ["AppSpec", "ShardsSpec", "System", "default_system", "load_system"]


_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


class ShardsSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an app's 128 buckets lie, when it is a sharded one (see `Layout`)."""

    count: int = 4
    """Databases that `url` stands for, or files in the data directory."""
    url: str = ""
    """Of each database, with its number in the place of `{number}`; empty for files in the data directory. One with a
    password is better set in the environment: `DOUGONG_DATABASE_USERS`, and the map's `DOUGONG_DATABASE_USERS_MAP`."""
    databases: dict[str, str] = {}
    """Or name → URL of each."""
    metadata: str = ""
    """URL of the database that keeps the bucket map."""
    routing: str = "modulo"
    spare_buckets: int = 0


class AppSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One app of a system."""

    target: str
    """`module:attribute`."""
    instances: int = 1
    http: str = ""
    """`host:port` of its front; with several instances, they take the ports from this one up."""
    nice: int = 0
    """0 to 19: how far the process gives way to others."""
    database: str = ""
    """URL of its database; empty for a SQLite file in the data directory. One with a password is better set in the
    environment: `DOUGONG_DATABASE_ORDERS`."""
    settings: dict[str, object] = {}
    shards: ShardsSpec | None = None
    """Databases of an app that is sharded."""


class System(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The apps, in the order in which they start; they stop in reverse."""

    name: str
    """Letters, digits, `-` and `_`: it names the data directory and who issues tokens."""
    apps: dict[str, AppSpec]


def load_system(path: Path) -> System:
    """Read a system file. Raises `NotFound` or `Invalid` naming the file and what is wrong in it."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise NotFound(f"system file {path}: {error.strerror}", code="system_not_found") from error
    except UnicodeDecodeError as error:
        raise _invalid(path, f"not UTF-8 text: {error}") from error
    try:
        system = msgspec.convert(tomllib.loads(text), System)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise _invalid(path, str(error)) from error
    if not _NAME.fullmatch(system.name):
        raise _invalid(path, f"name {system.name!r} must be letters, digits, - and _, starting with a letter")
    if not system.apps:
        raise _invalid(path, 'no apps in it; add [apps.NAME] with target = "module:app"')
    for name, app in system.apps.items():
        _check(path, name, app)
    return system


def _check(path: Path, name: str, app: AppSpec) -> None:
    where = f"apps.{name}"
    if not name.isidentifier():
        raise _invalid(path, f"{where}: an app's name must be an identifier")
    if not app.target.partition(":")[2]:
        raise _invalid(path, f"{where}.target {app.target!r} is not of the form module:attribute")
    if not 1 <= app.instances <= 64:
        raise _invalid(path, f"{where}.instances must be 1 to 64, not {app.instances}")
    if not 0 <= app.nice <= 19:
        raise _invalid(path, f"{where}.nice must be 0 to 19, not {app.nice}")
    if app.database:
        try:
            check_database_url(app.database)
        except Invalid as error:
            raise _invalid(path, f"{where}.database: {error.message}") from None
    if app.shards is not None and not 1 <= app.shards.count <= BUCKETS:
        raise _invalid(path, f"{where}.shards.count must be 1 to {BUCKETS}, not {app.shards.count}")
    if app.shards is not None and app.shards.url and app.shards.databases:
        raise _invalid(path, f"{where}.shards: give either url and count, or databases")
    if app.http:
        _, port = parse_address(app.http, f"system file {path}: {where}.http")
        if port + app.instances - 1 > 65535:
            raise _invalid(path, f"{where}.http: {app.instances} instances from port {port} up go past 65535")


def _invalid(path: Path, what: str) -> Invalid:
    return Invalid(f"system file {path}: {what}", code="invalid_system")


def default_system() -> Path:
    """`system.toml` here, or the one that an installed package offers (entry point group `dougong.systems`)."""
    here = Path("system.toml")
    if here.exists():
        return here
    for entry in importlib.metadata.entry_points(group="dougong.systems"):
        package, _, resource = entry.value.partition(":")
        return Path(str(importlib.resources.files(package))) / resource
    raise NotFound("no system.toml here; name one: dougong up SYSTEM.toml", code="system_not_found")
