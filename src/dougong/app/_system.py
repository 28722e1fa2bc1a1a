"""A system file: which apps make up a system, and how many of each."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import tomllib
from pathlib import Path

import msgspec

from dougong.errors import Invalid, NotFound

__all__ = ["AppSpec", "System", "default_system", "load_system"]


class AppSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One app of a system."""

    target: str
    """`module:attribute`."""
    instances: int = 1
    http: str = ""
    """`host:port` of its front; with several instances, they take the ports from this one up."""
    nice: int = 0
    """0 to 19: how far the process gives way to others."""
    settings: dict[str, object] = {}


class System(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The apps, in the order in which they start; they stop in reverse."""

    name: str
    apps: dict[str, AppSpec]


def load_system(path: Path) -> System:
    """Read a system file. Raises `NotFound` or `Invalid` naming the file and what is wrong in it."""
    try:
        text = path.read_text()
    except OSError as error:
        raise NotFound(f"system file {path}: {error.strerror}", code="system_not_found") from error
    try:
        system = msgspec.convert(tomllib.loads(text), System)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise Invalid(f"system file {path}: {error}", code="invalid_system") from error
    for name, app in system.apps.items():
        if not 1 <= app.instances <= 64:
            raise Invalid(f"system file {path}: apps.{name}.instances must be 1 to 64, not {app.instances}")
        if not 0 <= app.nice <= 19:
            raise Invalid(f"system file {path}: apps.{name}.nice must be 0 to 19, not {app.nice}")
    if not system.apps:
        raise Invalid(f'system file {path}: no apps in it; add [apps.NAME] with target = "module:app"')
    return system


def default_system() -> Path:
    """`system.toml` here, or the one that an installed package offers (entry point group `dougong.systems`)."""
    here = Path("system.toml")
    if here.exists():
        return here
    for entry in importlib.metadata.entry_points(group="dougong.systems"):
        package, _, resource = entry.value.partition(":")
        return Path(str(importlib.resources.files(package))) / resource
    raise NotFound("no system.toml here; name one: dougong up SYSTEM.toml", code="system_not_found")
