"""Which sharded store a command means."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import cyclopts
import msgspec

from dougong.app import configured_layouts, default_system, load_system
from dougong.errors import Invalid, NotFound
from dougong.shard import Layout, ShardedStore, embedded_layout, load_layout, open_sharded_store, routing_of

__all__ = ["HERE", "Where", "opened"]

_MAP = ".map.db"


@cyclopts.Parameter(name="*")
@dataclass(frozen=True)
class Where:
    """Parameters of all commands that work on one sharded store."""

    layout: Path | None = None
    """TOML file that names the databases; SQLite files in the data directory if left out."""
    name: str = ""
    """Of the sharded store, when the data directory has several."""
    data: Path | None = None
    """Data directory of the system."""


HERE = Where()
"""The only one there is."""


@asynccontextmanager
async def opened(where: Where) -> AsyncGenerator[ShardedStore]:
    """The sharded store of a layout file, or of the only (or named) layout in the data directory; closed afterwards."""
    layout = load_layout(where.layout) if where.layout is not None else await _embedded(where.name, where.data)
    store = await open_sharded_store(layout, create=False)
    try:
        yield store
    finally:
        await store.close()


async def _embedded(name: str, data: Path | None) -> Layout:
    system = load_system(default_system())
    directory = data if data is not None else Path("var") / system.name
    configured = configured_layouts(system)
    if name in configured or (not name and len(configured) == 1):
        return configured[name or next(iter(configured))]
    names = sorted(path.name.removesuffix(_MAP) for path in directory.glob(f"{name or '*'}{_MAP}"))
    if not names:
        raise NotFound(f"no sharded store {name or 'is'} in {directory}; name its --layout or --data", code="no_map")
    if len(names) > 1:
        raise Invalid(f"{directory} has sharded stores {', '.join(names)}; choose with --name", code="ambiguous")
    databases = len(list(directory.glob(f"{names[0]}.db-*.db")))
    layout = embedded_layout(directory, names[0], databases=databases)
    return msgspec.structs.replace(layout, routing=await routing_of(layout))
