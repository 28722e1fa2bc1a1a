"""A system file: which apps make up a system, and how many of each."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import re
import tomllib
from pathlib import Path
from typing import Literal

import msgspec

from dougong.app._ports import parse_address
from dougong.app._profiles import ProfileSpec, unknown_profile, with_profile
from dougong.errors import Invalid, NotFound
from dougong.mesh import Mode
from dougong.shard import BUCKETS
from dougong.store import check_database_url

__all__ = [
    "AppSpec",
    "DataDirectory",
    "JobsSpec",
    "MeshSpec",
    "ShardsSpec",
    "System",
    "SystemName",
    "default_system",
    "load_system",
]


_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


class SystemName(str):
    """Which system a process belongs to, for who asks: it sets apart what several systems keep in one place."""

    __slots__ = ()


class DataDirectory(str):
    """Where the system's files are, for who asks: an absolute path."""

    __slots__ = ()


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


class JobsSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an app's jobs wait, and how many of them each worker process runs at once."""

    engine: Literal["sql", "kafka"] = "sql"
    """`sql` is the app's own database."""
    servers: str = ""
    """`host:port,host:port` of Kafka."""
    database: str = ""
    """URL of the database that keeps the jobs of a sharded app; empty for a file in the data directory. One with a
    password is better set in the environment: `DOUGONG_DATABASE_USERS_JOBS`."""
    concurrency: int = 10
    """Of each queue. This and `queues` are read again when the file changes, or on SIGHUP; what an operator set with
    `dougong jobs resize` outranks both."""
    queues: dict[str, int] = {}
    """Queue → how many of its jobs run at once, where that is another number."""


class AppSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One app of a system."""

    target: str
    """`module:attribute`."""
    instances: int = 1
    http: str = ""
    """`host:port` of its front; with several instances, they take the ports from this one up."""
    live: str = ""
    """`host:port` of its gateway; several instances share it (with port 0 each has one of its own)."""
    nice: int = 0
    """0 to 19: how far the process gives way to others."""
    database: str = ""
    """URL of its database; empty for a SQLite file in the data directory. One with a password is better set in the
    environment: `DOUGONG_DATABASE_ORDERS`."""
    settings: dict[str, object] = {}
    workers: int = 0
    """Processes beside it that only work on its jobs; with none, its own instances do."""
    jobs: JobsSpec = JobsSpec()
    shards: ShardsSpec | None = None
    """Databases of an app that is sharded."""
    version: str = ""
    """Of what its instances run: a subset of a policy may ask for it."""
    canaries: int = 0
    """Instances beside the others whose version is `canary`; who is routed to them is a policy's business."""

    @property
    def processes(self) -> int:
        """Instances, the canaries after the others."""
        return self.instances + self.canaries


class MeshSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which policy holds between the apps."""

    policies: tuple[str, ...]
    """DestinationRule and VirtualService files, and folders of them; relative to the system file."""
    mode: Mode = Mode.ENHANCED
    hosts: dict[str, str] = {}
    """The host of services that are not called after it: `{ "shop.v1.OrderDesk" = "orders" }`."""
    namespace: str = "default"


class System(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The apps, in the order in which they start; they stop in reverse."""

    name: str
    """Letters, digits, `-` and `_`: it names the data directory and who issues tokens."""
    apps: dict[str, AppSpec]
    registry: str = ""
    """URL of the registry; empty for a file in the data directory. One with a password is better set in the
    environment: `DOUGONG_REGISTRY`."""
    mesh: MeshSpec | None = None
    profiles: dict[str, ProfileSpec] = {}
    """What the file says differently for another place, by name."""
    profile: str = ""
    """Which of them was laid over it."""


def load_system(path: Path, *, profile: str = "") -> System:
    """Read a system file, with `[profiles.PROFILE]` laid over it if one is named.

    Raises `NotFound` or `Invalid` naming the file and what is wrong in it, in whichever profile.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise NotFound(f"system file {path}: {error.strerror}", code="system_not_found") from error
    except UnicodeDecodeError as error:
        raise _invalid(path, f"not UTF-8 text: {error}") from error
    try:
        tables = tomllib.loads(text)
        if "profile" in tables:
            raise _invalid(path, "profile is not set here: choose one with --profile or DOUGONG_PROFILE")
        plain = _checked(path, msgspec.convert(tables, System))
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise _invalid(path, str(error)) from error
    profiled = {"": plain}
    for name in plain.profiles:
        if not _NAME.fullmatch(name):
            raise _invalid(path, f"profiles.{name!r}: a name must be letters, digits, - and _, starting with a letter")
        try:
            merged = msgspec.convert(with_profile(tables, name), System)
            profiled[name] = _checked(path, merged)
        except (Invalid, msgspec.ValidationError) as error:
            what = error.message.removeprefix(f"system file {path}: ") if isinstance(error, Invalid) else str(error)
            raise _invalid(path, f"profiles.{name}: {what}") from error
    if profile not in profiled:
        raise unknown_profile(path, profile, plain.profiles)
    return profiled[profile]


def _checked(path: Path, system: System) -> System:
    if not _NAME.fullmatch(system.name):
        raise _invalid(path, f"name {system.name!r} must be letters, digits, - and _, starting with a letter")
    if not system.apps:
        raise _invalid(path, 'no apps in it; add [apps.NAME] with target = "module:app"')
    if system.registry.startswith("memory:"):
        raise _invalid(path, f"registry {system.registry!r} is one process's own; its processes would not meet")
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
    if not 0 <= app.canaries <= 64:
        raise _invalid(path, f"{where}.canaries must be 0 to 64, not {app.canaries}")
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
    if not 0 <= app.workers <= 64:
        raise _invalid(path, f"{where}.workers must be 0 to 64, not {app.workers}")
    _check_jobs(path, f"{where}.jobs", app.jobs)
    _check_addresses(path, where, app)


def _check_addresses(path: Path, where: str, app: AppSpec) -> None:
    host, http = parse_address(app.http, f"system file {path}: {where}.http") if app.http else ("", 0)
    last = http + app.processes - 1
    if last > 65535:
        raise _invalid(path, f"{where}.http: {app.processes} instances from port {http} up go past 65535")
    if app.live:
        live_host, live = parse_address(app.live, f"system file {path}: {where}.live")
        if http and live_host == host and http <= live <= last:
            fronts = f"ports {http} to {last} are its fronts'" if last > http else f"port {http} is its front's"
            raise _invalid(path, f"{where}.live: {fronts}; set a port for its gateway that is none of them")


def _check_jobs(path: Path, where: str, jobs: JobsSpec) -> None:
    if (jobs.engine == "kafka") != bool(jobs.servers):
        raise _invalid(path, f'{where}: engine = "kafka" and servers = "host:port" go together')
    for name, concurrency in (("concurrency", jobs.concurrency), *((f"queues.{q}", n) for q, n in jobs.queues.items())):
        if not 1 <= concurrency <= 10_000:
            raise _invalid(path, f"{where}.{name} must be 1 to 10,000, not {concurrency}")
    if jobs.database:
        try:
            check_database_url(jobs.database)
        except Invalid as error:
            raise _invalid(path, f"{where}.database: {error.message}") from None


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
