"""`dougong connections`: who is connected to the gateways of a running system, and ending connections."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import cyclopts
import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from dougong.app import (
    ConnectionInfo,
    ConnectionList,
    Connections,
    DrainConnections,
    GetConnections,
    Kick,
    load_run_settings,
    network_transport,
    read_secrets,
)
from dougong.cli.data import data_directory
from dougong.cli.finding import REGISTRY, RegistryAt, opened_registry
from dougong.cli.instances import list_services, readable
from dougong.cli.output import shown
from dougong.cli.parameters import Json
from dougong.cli.showing import check_limit, console, print_document, print_fields
from dougong.errors import Error, Invalid, NotFound
from dougong.gateway import GatewaySettings, limits, read_machine
from dougong.registry import DrainRequest, Instance, Registry, ask_to_drain, find_instances
from dougong.rpc import client, close_client

__all__ = ["connections"]

connections = cyclopts.App(name="connections", help="Look at who is connected, and end connections.")

_LIMIT_MAX = 10_000
_PER_S_MAX = 1_000_000
_WAIT_S_MAX = 3600.0
_STEP_S = 5.0


@connections.default
async def ls(
    *, user: str = "", instance: str = "", limit: int = 100, at: RegistryAt = REGISTRY, json: Json = False
) -> None:
    """Show connections, with what each costs.

    Parameters
    ----------
    user
        Only this user's.
    instance
        Only of this process: its id or address.
    limit
        At most so many of each process, 1 to 10,000.
    """
    check_limit(limit, _LIMIT_MAX)
    async with opened_registry(at) as registry:
        told = await _ask(at, await _gateways(registry, instance), GetConnections(user=user, limit=limit))
    if json:
        document = [
            {"instance": i.id, "gateway": page.address, "total": page.total, "connections": page.items}
            for i, page in told
        ]
        print_document(document)
        return
    table = Table("instance", "connection", "user", "from", "open for", "silent for", "topics", "waiting", box=None)
    for i, page in told:
        for c in page.items:
            table.add_row(*map(shown, (i.id, *_cells(c))))
    out = console()
    out.print(table)
    for i, page in told:
        out.print(shown(f"{page.total} connections at {i.id} ({page.address})"), style="dim", highlight=False)


connections.command(ls, name="ls")


@connections.command
async def show(connection: int, *, instance: str = "", at: RegistryAt = REGISTRY, json: Json = False) -> None:
    """One connection.

    Parameters
    ----------
    connection
        Its number.
    instance
        Of which process, when several have one of that number: its id or address.
    """
    async with opened_registry(at) as registry:
        i, found = await _find(at, await _gateways(registry, instance), connection)
    plain = {"instance": i.id, **msgspec.to_builtins(found)}
    (print_document if json else print_fields)(plain)


@connections.command
async def kick(
    connection: int = 0,
    *,
    user: str = "",
    reason: str = "",
    instance: str = "",
    at: RegistryAt = REGISTRY,
    json: Json = False,
) -> int:
    """End a connection, or all of a user. Their clients show the reason, and do not come back by themselves.
    Exit code 1 when there was none.

    Parameters
    ----------
    connection
        Its number.
    user
        Whose connections, in all processes.
    reason
        What the client is told.
    instance
        Of which process: its id or address.
    """
    if bool(connection) == bool(user):
        raise Invalid("name a connection by its number, or a user with --user", code="bad_arguments")
    kicked = 0
    async with opened_registry(at) as registry:
        found = await _gateways(registry, instance)
        if connection:
            found = [(await _find(at, found, connection))[0]]
        for i in found:
            async with _service(at, i) as service:
                kicked += (await service.kick(Kick(user=user, id=connection, reason=reason))).connections
    if json:
        print_document({"kicked": kicked})
    else:
        print(f"{kicked} connections ended")
    return int(not kicked)


@connections.command
async def drain(
    instance: str,
    *,
    per_s: float = 1000.0,
    wait: float = 60.0,
    reason: str = "",
    at: RegistryAt = REGISTRY,
    json: Json = False,
) -> int:
    """Send a process's clients elsewhere at a pace, then ask it to leave. Exit code 1 when some are still there.

    Parameters
    ----------
    instance
        Its id or address.
    per_s
        So many clients a second are asked to come again elsewhere; each is told when.
    wait
        Seconds until the process is asked to leave, whoever is left.
    reason
        For its log.
    """
    if not 0 < per_s <= _PER_S_MAX:
        raise Invalid(f"--per-s must be over 0 and at most {_PER_S_MAX:,}, not {per_s:g}", code="bad_pace")
    if not 0 <= wait <= _WAIT_S_MAX:
        raise Invalid(f"--wait must be 0 to {_WAIT_S_MAX:g} seconds, not {wait:g}", code="bad_seconds")
    async with opened_registry(at) as registry:
        (i,) = await _gateways(registry, instance)
        async with _service(at, i) as service:
            before = (await service.get_connections(GetConnections(limit=1))).total
            left, until = before, time.monotonic() + wait
            while left and (seconds := min(_STEP_S, until - time.monotonic())) > 0:
                left = (await service.drain(DrainConnections(per_s=per_s, for_s=max(0.1, seconds)))).left
        await ask_to_drain(registry, DrainRequest(i.id, reason or "dougong connections drain", time.time_ns() // 1000))
    if json:
        print_document({"id": i.id, "connections": before, "left": left})
    else:
        said = f"{before - left} of {before} connections of {i.id} are gone; it was asked to leave"
        console().print(shown(said), highlight=False)
    return int(bool(left))


@connections.command
def doctor(*, processes: int = 0, json: Json = False) -> None:
    """How many connections this machine can hold, and what to raise first if that is too few.

    Parameters
    ----------
    processes
        Gateway processes that are to run; as many as there are cores if left out.
    """
    if not 0 <= processes <= 4096:
        raise Invalid(f"--processes must be 1 to 4096, not {processes}", code="bad_processes")
    machine = read_machine(
        processes=processes or len(os.sched_getaffinity(0)),
        memory_bytes=psutil.virtual_memory().available,
        connections_max=GatewaySettings().connections_max,
    )
    found = limits(machine)
    if json:
        print_document({"connections": found[0].connections, "limits": found})
        return
    table = Table("what", "found", "connections", "remedy", box=None)
    for limit in found:
        table.add_row(limit.what, limit.found, f"{limit.connections:,}" if limit.connections else "–", limit.remedy)
    out = console()
    out.print(table)
    out.print(f"{found[0].connections:,} connections, limited by {found[0].what}", highlight=False)


async def _gateways(registry: Registry, named: str) -> list[Instance]:
    """Processes that have one."""
    instances, _ = readable(await list_services(registry, "/services/apps."))
    found = [i for i in instances if i.metadata.get("live")]
    if named:
        found = list(find_instances(found, named))
    if not found:
        raise NotFound("no app of this system has a gateway, or none runs", code="no_gateway")
    return found


async def _ask(
    at: RegistryAt, instances: Sequence[Instance], what: GetConnections
) -> list[tuple[Instance, ConnectionList]]:
    """What each says; one that does not answer is named, and left out."""

    async def one(i: Instance) -> tuple[Instance, ConnectionList] | None:
        try:
            async with _service(at, i) as service:
                return i, await service.get_connections(what)
        except Error as error:
            Console(stderr=True).print(shown(f"{i.id} at {i.address}: {error.message}"))
            return None

    return [told for told in await asyncio.gather(*map(one, instances)) if told is not None]


async def _find(at: RegistryAt, instances: Sequence[Instance], connection: int) -> tuple[Instance, ConnectionInfo]:
    told = await _ask(at, instances, GetConnections(id=connection))
    found = [(i, item) for i, page in told for item in page.items]
    if not found:
        raise NotFound(f"there is no connection {connection}; it may have ended", code="unknown_connection")
    if len(found) > 1:
        names = " and ".join(i.id for i, _ in found)
        raise Invalid(f"{names} have a connection {connection}; choose with --instance", code="ambiguous")
    return found[0]


@asynccontextmanager
async def _service(at: RegistryAt, i: Instance) -> AsyncGenerator[Connections]:
    token = read_secrets(data_directory(at.data) / "keys", "dougong").system_token
    service = client(Connections, [i.address], token=token, transport=network_transport(load_run_settings()))
    try:
        yield service
    finally:
        await close_client(service)


def _cells(c: ConnectionInfo) -> tuple[str, ...]:
    waiting = f"{c.waiting_bytes:,} B" if c.waiting_bytes else "–"
    return str(c.id), c.user or "–", c.ip, f"{c.open_s:.0f} s", f"{c.silent_s:.0f} s", str(c.topics), waiting
