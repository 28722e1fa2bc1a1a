"""Where the databases of a sharded app are: files in the data directory, unless others are configured."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from dougong.app._settings import DATABASE_PREFIX
from dougong.app._system import ShardsSpec, System
from dougong.errors import Invalid
from dougong.shard import Layout, embedded_layout

__all__ = ["configured_layouts", "shards_layout"]


def shards_layout(app: str, system: System | None, data: Path, environ: Mapping[str, str] | None = None) -> Layout:
    """From `[apps.NAME.shards]` of the system file; `DOUGONG_DATABASE_NAME` in the environment is its `url`, and
    `DOUGONG_DATABASE_NAME_MAP` its `metadata`. Neither: SQLite files in the data directory, 4 or as many as there are.

    Raises `Invalid` (code `bad_layout`). It may hold passwords: never for a log.
    """
    layout = _configured(app, system, environ)
    if layout is not None:
        return layout
    spec, there = _spec(app, system), 0
    while (data / f"{app}.db-{there}.db").exists():
        there += 1
    return embedded_layout(data, app, databases=max(spec.count, there), routing=spec.routing)


def configured_layouts(system: System, environ: Mapping[str, str] | None = None) -> dict[str, Layout]:
    """App → layout, of the apps whose databases are configured to be elsewhere than in the data directory."""
    names = [name for name, app in system.apps.items() if app.shards is not None]
    return {name: layout for name in names if (layout := _configured(name, system, environ)) is not None}


def _spec(app: str, system: System | None) -> ShardsSpec:
    found = system.apps.get(app) if system is not None else None
    return found.shards if found is not None and found.shards is not None else ShardsSpec()


def _configured(app: str, system: System | None, environ: Mapping[str, str] | None) -> Layout | None:
    environ = os.environ if environ is None else environ
    spec = _spec(app, system)
    if system is not None and app in system.apps and system.apps[app].database:
        raise Invalid(f"{app} is sharded: say where in [apps.{app}.shards], not in database", code="bad_layout")
    url = environ.get(f"{DATABASE_PREFIX}{app.upper()}") or spec.url
    metadata = environ.get(f"{DATABASE_PREFIX}{app.upper()}_MAP") or spec.metadata
    if not url and not spec.databases:
        return None
    if not metadata:
        raise Invalid(
            f"{app}: its databases are configured, so say where their map is kept: metadata in [apps.{app}.shards], or"
            f" {DATABASE_PREFIX}{app.upper()}_MAP",
            code="bad_layout",
        )
    if url:
        return Layout.numbered(
            app,
            url=url,
            count=spec.count,
            metadata=metadata,
            routing=spec.routing,
            spare_buckets=spec.spare_buckets,
        )
    return Layout(app, metadata, spec.databases, spec.routing, spec.spare_buckets)
