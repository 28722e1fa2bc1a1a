"""A server and a swarm, both running."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress

import msgspec

from dougong.evidence import SwarmOptions
from shop.proof.connections.servers import NEWS, TOKEN, Options, Published
from shop.proof.tcc.child import Child, child

__all__ = ["Server", "Status", "Up", "crowd", "server"]

_MODULE = "shop.proof.connections"
_START_S = 90.0


class Up(msgspec.Struct, frozen=True):
    pids: list[int]
    ports: list[int]


class Status(msgspec.Struct, frozen=True):
    cpu_s: float


class Server:
    """Its processes, from outside."""

    def __init__(self, child: Child, up: Up) -> None:
        self._child = child
        self.workers = up.pids
        self.pids = [child.pid, *up.pids]
        """With the one they were forked from: what it holds for them counts."""
        self.targets = [f"127.0.0.1:{port}" for port in up.ports]

    async def cpu_s(self) -> float:
        """What all workers took so far."""
        return sum(status.cpu_s for status in await self._ask("status"))

    async def publish(self, size: int, at_us: int) -> None:
        """Tell all members of `news` a message of so many bytes, due at `at_us` of the monotonic clock."""
        data = msgspec.json.encode({"at_us": at_us, "text": ""}).decode()
        data = data.replace('""', f'"{"x" * (size - len(data))}"')
        await self._ask(msgspec.json.encode(Published(topic=NEWS, data=data)).decode())

    def freeze(self) -> None:
        """Nobody reads or closes anything any more."""
        for pid in self.workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    async def kill(self) -> None:
        """At once, frozen or not."""
        for pid in self.workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self._child.kill()

    async def _ask(self, line: str) -> Sequence[Status]:
        await self._child.tell(line)
        return msgspec.json.decode(await self._child.hear(_START_S), type=list[Status])


@asynccontextmanager
async def server(options: Options) -> AsyncGenerator[Server]:
    """Start one; it ends with the block."""
    async with child(_MODULE, msgspec.json.encode(options).decode()) as started:
        up = msgspec.json.decode(await started.hear(_START_S), type=Up)
        one = Server(started, up)
        try:
            yield one
        finally:
            await asyncio.shield(one.kill())


def crowd(to: Server, sessions: int, per_s: float, *, processes: int = 0) -> SwarmOptions:
    """So many sessions for that server."""
    return SwarmOptions(
        targets=to.targets,
        sessions=sessions,
        per_s=per_s,
        processes=processes,
        headers={"Authorization": f"Bearer {TOKEN}"},
    )
