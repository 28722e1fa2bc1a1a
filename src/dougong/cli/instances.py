"""The instances that a registry holds, as rows to look at."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from dougong.app import load_run_settings, network_probe
from dougong.cli.finding import near
from dougong.errors import Invalid, NotFound, Unavailable
from dougong.registry import Instance, InvalidEntry, KeyValue, Listing, Registry, read_instance

__all__ = ["PREFIX", "PROBE_S", "Row", "check_service", "list_services", "read_rows", "readable"]

PREFIX = "/services/"
PROBE_S = 2.0
"""Nobody's calls depend on it here, so a busy machine is given time."""
_CALL_S = 5.0
_PROBES_AT_ONCE = 16


class Row(msgspec.Struct, frozen=True):
    """One instance as the registry has it, and whether it answers."""

    instance: Instance
    lease: int
    registered: int
    """Revision at which it came."""
    revision: int
    """Revision of its last change."""
    health: str
    """`alive`, `dead`, or `unasked`."""

    def document(self) -> dict[str, object]:
        """All of it, flat."""
        about = {"lease": self.lease, "registered": self.registered, "revision": self.revision, "health": self.health}
        return {**msgspec.to_builtins(self.instance), **about}


async def list_services(registry: Registry, prefix: str = PREFIX) -> Listing:
    try:
        async with asyncio.timeout(_CALL_S):
            return await registry.list(prefix)
    except TimeoutError:
        raise Unavailable(f"the registry did not answer within {_CALL_S:g} s", code="registry_silent") from None


def readable(listing: Listing) -> tuple[list[Instance], list[InvalidEntry]]:
    found: list[Instance] = []
    invalid: list[InvalidEntry] = []
    for item in listing.items:
        try:
            found.append(read_instance(item.key, item.value))
        except Invalid as error:
            invalid.append(InvalidEntry(item.key, error.message))
    return found, invalid


async def read_rows(listing: Listing, service: str, *, probe: bool) -> tuple[list[Row], list[InvalidEntry]]:
    instances, invalid = readable(listing)
    if service:
        check_service(service, [*instances], listing)
        instances = [i for i in instances if i.service == service]
        invalid = [entry for entry in invalid if entry.key.startswith(f"{PREFIX}{service}/")]
    health = await _ask({i.address for i in instances}) if probe else {}
    items: Mapping[str, KeyValue] = {item.key: item for item in listing.items}
    rows: list[Row] = []
    for i in instances:
        item = items[f"{PREFIX}{i.service}/{i.address}"]
        asked = health.get(i.address)
        word = "unasked" if asked is None else "alive" if asked else "dead"
        rows.append(Row(i, item.lease, item.create_revision, item.mod_revision, word))
    return rows, invalid


async def _ask(addresses: set[str]) -> dict[str, bool]:
    probe, room = network_probe(load_run_settings(), timeout_s=PROBE_S), asyncio.Semaphore(_PROBES_AT_ONCE)

    async def one(address: str) -> bool:
        async with room:
            return await probe.probe(address)

    ordered = sorted(addresses)
    return dict(zip(ordered, await asyncio.gather(*map(one, ordered)), strict=True))


def check_service(service: str, instances: Sequence[Instance], listing: Listing) -> None:
    names = {i.service for i in instances} | {item.key.split("/")[2] for item in listing.items}
    if service not in names:
        raise NotFound(f"no service {service!r} is registered: {near(service, names)}", code="unknown_service")
