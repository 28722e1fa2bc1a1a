"""A process for `test_processes.py`: opens the shared file and says on standard output what it sees."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import uvloop

from dougong.registry import ChangeKind, Instance, LocalRegistry, Registration, open_registry, service_prefix

SERVICE = "test.v1.Workers"


def say(*words: object) -> None:
    print(*words, flush=True)  # noqa: T201


async def member(url: str, name: str, ttl_s: float) -> None:
    """Register, then tell of everybody who comes and goes."""
    registry = await open_registry(url)
    registration = Registration(registry, [Instance(service=SERVICE, address=name)], ttl_s=ttl_s)
    await registration.start()
    say("registered" if registration.registered else "failed")
    prefix = service_prefix(SERVICE)
    listing = await registry.list(prefix)
    for item in listing.items:
        say("put", item.key.removeprefix(prefix), item.mod_revision)
    assert isinstance(registry, LocalRegistry)
    stopping = asyncio.create_task(stop_when_told(registry))
    async for changes in registry.watch(prefix, listing.revision + 1):
        for change in changes:
            say(change.kind, change.key.removeprefix(prefix), change.revision)
            if change.kind is ChangeKind.DELETE and change.key == prefix + name:
                while registration.grants < 2:
                    await asyncio.sleep(0.01)
                await registration.wait(timeout_s=30)
                await stopping
                say("back")


async def stop_when_told(registry: LocalRegistry) -> None:
    """Stop the whole process from within the registry's thread: between transactions, so that no lock is held."""
    if await asyncio.to_thread(sys.stdin.readline):
        registry._thread.submit(os.kill, os.getpid(), signal.SIGSTOP)


async def writer(url: str, name: str) -> None:
    """Change the registry as fast as it goes, each key on a lease of its own."""
    registry = await open_registry(url)
    say("registered")
    while True:
        lease = await registry.grant(1000)
        await registry.put(f"/{name}/a", b"x" * 500, lease=lease.id)
        await registry.put(f"/{name}/b", b"x" * 500, lease=lease.id)
        await registry.revoke(lease.id)


if __name__ == "__main__":
    role, url, name, *rest = sys.argv[1:]
    say("ready")
    sys.stdin.readline()  # everybody starts at the same instant
    uvloop.run(writer(url, name) if role == "writer" else member(url, name, float(rest[0])))
