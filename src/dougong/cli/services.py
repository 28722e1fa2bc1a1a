"""`dougong services`: who is where, who would be called and why, and asking an instance to leave."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import cyclopts
from rich.console import Console
from rich.table import Table

from dougong.app import load_run_settings, network_probe
from dougong.cli.changes import difference, tell_change, tell_note
from dougong.cli.finding import REGISTRY, RegistryAt, near, opened_registry
from dougong.cli.instances import PREFIX, PROBE_S, check_service, list_services, read_rows, readable
from dougong.cli.output import shown
from dougong.cli.parameters import Json
from dougong.cli.showing import console, print_document
from dougong.errors import Error, Invalid, NotFound, Unavailable
from dougong.registry import (
    Compacted,
    Discovery,
    DrainRequest,
    Explanation,
    Registry,
    Resolver,
    Standing,
    ask_to_drain,
    find_instances,
)

__all__ = ["services"]

services = cyclopts.App(name="services", help="Look at who serves what and where, and ask instances to leave.")

_AGAIN_S = 0.5
_ASK_S = 10.0
_WAIT_S_MAX = 3600.0


@services.default
async def ls(service: str = "", *, at: RegistryAt = REGISTRY, probe: bool = True, json: Json = False) -> None:
    """Show the instances of every service, or of one. Each address is asked whether it answers.

    Parameters
    ----------
    service
        Only this one.
    probe
        Ask the instances how they are.
    """
    async with opened_registry(at) as registry:
        listing = await list_services(registry)
    rows, invalid = await read_rows(listing, service, probe=probe)
    if json:
        document = {
            "revision": listing.revision,
            "instances": [row.document() for row in rows],
            "invalid": invalid,
        }
        print_document(document)
        return
    names = ("service", "address", "state", "health", "id", "version", "zone", "weight", "lease", "revision", "since")
    table = Table(*names, box=None)
    for row in rows:
        i = row.instance
        cells = (
            *(i.service, i.address, i.state.value, row.health, i.id, i.version or "–", i.zone or "–", str(i.weight)),
            *(str(row.lease or "–"), str(row.revision), str(row.registered)),
        )
        table.add_row(*map(shown, cells))
    out = console()
    out.print(table)
    for entry in invalid:
        out.print(shown(f"ignored: {entry.reason}"), style="yellow", soft_wrap=True)
    out.print(f"{len(rows)} instances at revision {listing.revision}", style="dim")


services.command(ls, name="ls")


@services.command
async def watch(service: str = "", *, at: RegistryAt = REGISTRY, count: int = 0, json: bool = False) -> None:
    """Show changes as they happen, one line each, until Ctrl-C. Starts with who is there.

    Parameters
    ----------
    service
        Only this one; it need not be there yet.
    count
        End after so many changes; 0 for never.
    json
        One JSON document per line.
    """
    prefix = f"{PREFIX}{service}/" if service else PREFIX
    left = count or -1
    async with opened_registry(at) as registry:
        known: dict[str, bytes] = {}
        while True:
            try:
                listing = await list_services(registry, prefix)
                for change in difference(known, listing):
                    tell_change(change, known, json)
                async for changes in registry.watch(prefix, listing.revision + 1):
                    for change in changes:
                        tell_change(change, known, json)
                        left -= 1
                        if not left:
                            return
            except Compacted:
                continue
            except Unavailable as error:
                if error.code == "closed":
                    raise
                tell_note(f"the registry is silent ({error.message}); trying again", json)
                await asyncio.sleep(_AGAIN_S)


@services.command
async def why(service: str, address: str = "", *, at: RegistryAt = REGISTRY, json: Json = False) -> int:
    """Who of a service would be called, who would not, and why. Exit code 1 when nobody would be.

    Builds the same routing table as any client, and asks every instance whether it answers.

    Parameters
    ----------
    service
        Its full name, e.g. shop.v1.Orders.
    address
        Say it of this one first.
    """
    async with _resolved(at, service) as resolver:
        found = resolver.explain(address)
    if address and found.chosen is None:
        known = [s.address for s in (*found.called, *found.excluded)]
        raise NotFound(f"{service} has no instance at {address}: {near(address, known)}", code="unknown_instance")
    if json:
        print_document(found)
    else:
        _print_why(found)
    return int(not found.called)


@services.command
async def drain(
    instance: str, *, wait: float = 0.0, reason: str = "", at: RegistryAt = REGISTRY, json: Json = False
) -> int:
    """Ask an instance to leave: it says so, finishes what it accepted, and ends. Its supervisor starts another.

    Parameters
    ----------
    instance
        Its id, or its address.
    wait
        Seconds to wait until it is gone. Exit code 1 when it is not by then.
    reason
        For its log.
    """
    if not 0 <= wait <= _WAIT_S_MAX:
        raise Invalid(f"--wait must be 0 to {_WAIT_S_MAX:g} seconds, not {wait:g}", code="bad_seconds")
    async with opened_registry(at) as registry:
        entries = find_instances(readable(await list_services(registry))[0], instance)
        wanted = entries[0].id
        await ask_to_drain(registry, DrainRequest(wanted, reason or "dougong services drain", time.time_ns() // 1000))
        gone = bool(wait) and await _gone(registry, wanted, wait)
    if json:
        document = {"id": wanted, "services": sorted(i.service for i in entries), "asked": True, "gone": gone}
        print_document(document)
    else:
        Console().print(shown(f"{wanted} {_outcome(gone, wait)}"), highlight=False)
    return int(bool(wait) and not gone)


@asynccontextmanager
async def _resolved(at: RegistryAt, service: str) -> AsyncGenerator[Resolver]:
    """A client's view of a service, after everybody in it was asked."""
    async with opened_registry(at) as registry:
        listing = await list_services(registry)
        check_service(service, readable(listing)[0], listing)
        probe = network_probe(load_run_settings(), timeout_s=PROBE_S)
        discovery = Discovery(registry, probe=probe, probe_s=PROBE_S)
        try:
            resolver = await discovery.resolve(service)
            with suppress(TimeoutError):  # who has not answered by then is called doubted
                async with asyncio.timeout(_ASK_S):
                    await discovery.ask_all(resolver)
            yield resolver
        finally:
            await discovery.close()


async def _gone(registry: Registry, id: str, wait_s: float) -> bool:  # noqa: A002 (it is the field's name)
    """Whether all entries of the process are gone in time. A registry that is silent meanwhile proves nothing."""
    try:
        async with asyncio.timeout(wait_s):
            while True:
                try:
                    if not any(i.id == id for i in readable(await registry.list(PREFIX))[0]):
                        return True
                except Error:
                    await asyncio.sleep(_AGAIN_S)
                await asyncio.sleep(0.05)
    except TimeoutError:
        return False


def _print_why(found: Explanation) -> None:
    out = console()
    age = "never confirmed" if found.age_s is None else f"{found.age_s:.1f} s old"
    doubt = ", not to be relied on" if found.stale else ""
    out.print(f"{found.service}: revision {found.revision}, from the {found.source.value}, {age}{doubt}")
    if found.chosen is not None:
        out.print(shown(f"{found.chosen.address} {_verb(found.chosen)}"), highlight=False, soft_wrap=True)
    table = Table("address", "called", "why", "health", "id", "version", "zone", "weight", "revision", box=None)
    for s in (*found.called, *found.excluded):
        cells = (
            *(s.address, "yes" if s.called else "no", s.reason, s.health, s.id),
            *(s.version or "–", s.zone or "–", str(s.weight), str(s.revision)),
        )
        table.add_row(*map(shown, cells))
    out.print(table)
    for entry in found.invalid:
        out.print(shown(f"ignored: {entry.reason}"), style="yellow", soft_wrap=True)
    if not found.called:
        out.print("nobody would be called")


def _verb(standing: Standing) -> str:
    return f"{'is' if standing.called else 'is not'} called: {standing.reason}"


def _outcome(gone: bool, wait_s: float) -> str:
    if not wait_s:
        return "was asked to leave"
    return "has left" if gone else f"was asked to leave and is still there after {wait_s:g} s"
