"""`dougong mesh`: what policy files say, which value holds where and why, and what policy did in a running system."""

from __future__ import annotations

from pathlib import Path

import cyclopts
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dougong.app import (
    GetMesh,
    MeshStatus,
    Status,
    default_system,
    load_run_settings,
    load_system,
    network_transport,
    printable,
    read_secrets,
)
from dougong.cli.data import data_directory
from dougong.cli.finding import RegistryAt, near, opened_registry
from dougong.cli.instances import list_services, readable
from dougong.cli.output import shown
from dougong.cli.parameters import Json
from dougong.errors import Error, Invalid, NotFound
from dougong.mesh import Policies, explain, load_policies
from dougong.rpc import client, close_client

__all__ = ["mesh"]

mesh = cyclopts.App(name="mesh", help="Look at the policy between services, and at what it did.")

_WIDTH = 120


@mesh.command
def check(files: list[Path], /, *, json: bool = False) -> int:
    """Read DestinationRule and VirtualService files. Exit code 1 when one is wrong, 0 with warnings.

    Parameters
    ----------
    files
        YAML files, and folders of them.
    json
        One JSON document instead of text.
    """
    policies = load_policies(files)
    if json:
        found = [{"at": str(w.place), "field": w.path, "code": w.code, "text": w.text} for w in policies.warnings]
        print(msgspec.json.encode({"warnings": found}).decode())
        return 0
    for warning in policies.warnings:
        print(f"warning: {warning}")
    print(f"read; {len(policies.warnings)} warnings")
    return 0


@mesh.command(name="explain")
def explain_(
    host: str,
    /,
    *,
    subset: str = "",
    port: int = 0,
    file: list[Path] | None = None,
    json: Json = False,
) -> int:
    """Every value that holds for calls of a host, with the line it was written in.

    Parameters
    ----------
    host
        As a caller says it: `orders`, `orders.shop`, the full name, or a service such as `shop.v1.Orders`.
    subset
        One that a DestinationRule defines.
    port
        For settings of a port.
    file
        Policy files and folders; those of the system file if left out.
    """
    policies = load_policies(file) if file else _of_system()
    name = policies.host_of(host) if host[:1].islower() and host.rpartition(".")[2][:1].isupper() else host
    lines = explain(policies, name, subset, port)
    if json:
        print(msgspec.json.encode(lines).decode())
        return 0
    table = Table("field", "value", "from", box=None)
    for line in lines:
        table.add_row(*(escape(cell) for cell in (line.field, line.value, line.origin)))
    Console(width=_WIDTH).print(table)
    return 0


@mesh.command
async def stats(
    app: str, /, *, match: str = "", data: Path | None = None, registry: str = "", json: bool = False
) -> int:
    """What policy did in the processes of an app: Envoy's statistics of its clusters, and the latest ejections.

    Parameters
    ----------
    app
        The caller whose clusters these are: `edge`.
    match
        Only statistics whose name contains this.
    data
        Data directory of the running system.
    registry
        URL of the registry, when it is not the data directory's.
    json
        One JSON document instead of text.
    """
    told = await _stats(app, RegistryAt(data, registry), data_directory(data))
    if json:
        print(msgspec.json.encode([_document(status, match) for status in told.values()]).decode())
        return 0
    for identity, status in told.items():
        print(printable(f"# {identity}"))
        for statistic in status.statistics:
            if match in statistic.name:
                print(f"{statistic.name}: {statistic.value}")
        for event in status.ejections:
            print(printable(event))
    return 0


def _document(status: MeshStatus, match: str) -> dict[str, object]:
    return {
        "app": status.app,
        "statistics": {s.name: s.value for s in status.statistics if match in s.name},
        "ejections": [msgspec.json.decode(event) for event in status.ejections],
    }


def _of_system() -> Policies:
    path = default_system()
    system = load_system(path)
    if system.mesh is None:
        raise Invalid(f"system file {path} has no [mesh]; name files with --file", code="no_policies")
    spec = system.mesh
    files = [path.parent / name for name in spec.policies]
    return load_policies(files, namespace=spec.namespace, hosts=spec.hosts)


async def _stats(app: str, at: RegistryAt, directory: Path) -> dict[str, MeshStatus]:
    token = read_secrets(directory / "keys", "dougong").system_token
    async with opened_registry(at) as registry:
        instances, _ = readable(await list_services(registry, "/services/apps."))
    found = [instance for instance in instances if instance.app == app]
    if not found:
        known = near(app, (instance.app for instance in instances))
        raise NotFound(f"no instance of app {app!r} is registered: {known}", code="unknown_app")
    told: dict[str, MeshStatus] = {}
    transport = network_transport(load_run_settings())
    for instance in found:
        status = client(Status, [instance.address], token=token, transport=transport)
        try:
            told[instance.id] = await status.get_mesh(GetMesh())
        except Error as error:
            Console(stderr=True).print(shown(f"{instance.id} at {instance.address}: {error.message}"))
        finally:
            await close_client(status)
    return told
