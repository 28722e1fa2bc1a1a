"""`dougong services`: who is where, as the registry tells."""

from __future__ import annotations

from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dougong.app import registry_url
from dougong.cli.data import data_directory
from dougong.registry import Instance, open_registry

__all__ = ["services"]


async def services(*, data: Path | None = None, json: bool = False) -> None:
    """Show the instances of every service.

    Parameters
    ----------
    data
        Data directory of the running system; the default system's if left out.
    json
        One JSON document instead of a table.
    """
    registry = await open_registry(registry_url(data_directory(data)))
    try:
        listing = await registry.list("/services/")
    finally:
        await registry.close()
    instances = [msgspec.json.decode(item.value, type=Instance) for item in listing.items]
    if json:
        print(msgspec.json.encode({"revision": listing.revision, "instances": instances}).decode())
        return
    table = Table("service", "address", "state", "id", "revision", box=None)
    for instance, item in zip(instances, listing.items, strict=True):
        cells = (instance.service, instance.address, instance.state.value, instance.id, str(item.mod_revision))
        table.add_row(*map(escape, cells))
    Console().print(table)
    Console().print(f"{len(instances)} instances at revision {listing.revision}", style="dim")
