"""URLs of what stands in a data directory, whatever characters its path has, and of databases that stand elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from dougong.app._settings import DATABASE_PREFIX
from dougong.app._system import System

__all__ = ["configured_database_url", "configured_registry_url", "database_url", "registry_url"]

REGISTRY_VARIABLE = "DOUGONG_REGISTRY"


def registry_url(data: Path) -> str:
    """The registry that the processes of one machine share."""
    return f"local://{quote(str(data.absolute() / 'registry.db'))}"


def database_url(data: Path, app: str) -> str:
    """The database of an app, unless another is configured: a file in the data directory."""
    return f"sqlite:///{quote(str(data.absolute() / f'{app}.db'))}"


def configured_database_url(app: str, system: System | None, environ: Mapping[str, str] | None = None) -> str:
    """What `DOUGONG_DATABASE_NAME` says, else `[apps.NAME] database` of the system file; empty when neither does.

    It may hold a password: hand it to `open_store`, never to a log.
    """
    set_outside = (os.environ if environ is None else environ).get(f"{DATABASE_PREFIX}{app.upper()}", "")
    spec = system.apps.get(app) if system is not None else None
    return set_outside or (spec.database if spec is not None else "")


def configured_registry_url(system: System | None, environ: Mapping[str, str] | None = None) -> str:
    """What `DOUGONG_REGISTRY` says, else `registry` of the system file and its profile; empty when neither does.

    `memory://` outside is meant for some single process: those of a system would not meet in it.
    """
    set_outside = (os.environ if environ is None else environ).get(REGISTRY_VARIABLE, "")
    if set_outside and set_outside != "memory://":
        return set_outside
    return system.registry if system is not None else ""
