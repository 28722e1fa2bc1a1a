"""Asking an instance to leave: a note under its id, which it watches as long as it serves.

The note is taken away by who reads it, and hangs on a lease of its own, so that it does not lie in wait for a later
process of the same id. What leaving means is the instance's own affair: it says `terminating`, finishes what it
accepted, and goes.
"""

from __future__ import annotations

import asyncio
import random as random_module
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from dougong.errors import Conflict, Error, Invalid, NotFound, Unavailable
from dougong.registry._protocol import Change, ChangeKind, Instance, Registry
from dougong.registry.registration import BACKOFF_S_MAX, BACKOFF_S_MIN, CALL_S_MAX

__all__ = ["DRAIN_PREFIX", "DrainRequest", "ask_to_drain", "drain_asked", "find_instances"]

DRAIN_PREFIX = "/drains/"
NOTE_S = 60.0
"""An instance that has not read the note by then does not watch for any."""
REFRESH_S = 60.0


class DrainRequest(msgspec.Struct, frozen=True):
    """Please leave."""

    id: str
    reason: str = ""
    asked_at_us: int = 0


def drain_key(id: str) -> str:  # noqa: A002 (it is the field's name)
    """Where the note for an instance lies."""
    if not id or "/" in id:
        raise Invalid(f"instance id {id!r} must not be empty or contain '/'", code="invalid_instance_id")
    return DRAIN_PREFIX + id


async def ask_to_drain(registry: Registry, request: DrainRequest) -> None:
    """Leave a note for an instance; asking twice is asking once. Raises what the registry raises."""
    key = drain_key(request.id)
    try:
        async with asyncio.timeout(CALL_S_MAX):
            lease = await registry.grant(NOTE_S)
            try:
                await registry.create(key, msgspec.json.encode(request), lease=lease.id)
            except Conflict:
                await registry.revoke(lease.id)
    except TimeoutError:
        raise Unavailable(f"the registry did not take {key} within {CALL_S_MAX} s", code="registry_silent") from None


async def drain_asked(registry: Registry, id: str, *, random: random_module.Random | None = None) -> DrainRequest:  # noqa: A002
    """Wait until somebody asks the instance `id` to leave. A registry that is away delays that, nothing else."""
    key, dice = drain_key(id), random if random is not None else random_module.Random()
    backoff_s = BACKOFF_S_MIN
    while True:
        try:
            async with asyncio.timeout(CALL_S_MAX):
                listing = await registry.list(key)
            for item in listing.items:
                if item.key == key:
                    return await _taken(registry, id, item.value)
            backoff_s = BACKOFF_S_MIN
            async with asyncio.timeout(REFRESH_S * dice.uniform(0.8, 1.2)):  # it may hang without a word
                async for changes in registry.watch(key, listing.revision + 1):
                    if (value := _asked(changes, key)) is not None:
                        return await _taken(registry, id, value)
        except (Error, TimeoutError):
            await asyncio.sleep(backoff_s * dice.uniform(0.5, 1.0))
            backoff_s = min(BACKOFF_S_MAX, backoff_s * 2)


def find_instances(instances: Sequence[Instance], what: str) -> tuple[Instance, ...]:
    """Entries of the one process that `what` names: its id, or one of its addresses.

    Raises `NotFound` (`unknown_instance`) naming what there is, `Invalid` (`ambiguous_instance`) for more than one.
    """
    found = [i for i in instances if what in (i.id, i.address)]
    ids = sorted({i.id for i in found})
    if not found:
        there = ", ".join(sorted({f"{i.id} ({i.address})" for i in instances})[:20]) or "nobody"
        raise NotFound(f"no instance {what!r}; there are {there}", code="unknown_instance")
    if len(ids) > 1 or not ids[0]:
        raise Invalid(f"{what!r} may be {', '.join(map(repr, ids))}; name its id", code="ambiguous_instance")
    return tuple(i for i in instances if i.id == ids[0])


def _asked(changes: Sequence[Change], key: str) -> bytes | None:
    return next((c.value for c in changes if c.key == key and c.kind is ChangeKind.PUT), None)


async def _taken(registry: Registry, id: str, value: bytes) -> DrainRequest:  # noqa: A002
    with suppress(Error, TimeoutError):  # then it goes with its lease
        async with asyncio.timeout(CALL_S_MAX):
            await registry.delete(drain_key(id))
    return _request(id, value)


def _request(id: str, value: bytes) -> DrainRequest:  # noqa: A002
    try:
        return msgspec.json.decode(value, type=DrainRequest)
    except (msgspec.DecodeError, UnicodeDecodeError):  # whoever wrote it meant us
        return DrainRequest(id)
