"""What an operator asks of an app's gateway: who is connected, end some, have all come again elsewhere."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import Annotated

from msgspec import Meta

from dougong.contract import Message, Service, rpc
from dougong.errors import Invalid
from dougong.gateway import Gateway

__all__ = [
    "ConnectionInfo",
    "ConnectionList",
    "Connections",
    "DrainConnections",
    "Drained",
    "GatewayAddress",
    "GetConnections",
    "Kick",
    "Kicked",
]


class GatewayAddress:
    """Where the app's gateway listens, as `host:port`; empty until it does."""

    def __init__(self) -> None:
        self.address = ""


class GetConnections(Message):
    """Some connections, those of a user, or the one with that number."""

    user: Annotated[str, Meta(max_length=200)] = ""
    id: int = 0
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 100


class ConnectionInfo(Message):
    """A connection. Its number is its process's."""

    id: int
    user: str
    ip: str
    open_s: float
    silent_s: float
    topics: int
    waiting_bytes: int
    """What it was told and has not read."""


class ConnectionList(Message):
    """`total` is how many the process has."""

    items: list[ConnectionInfo]
    total: int
    pid: int
    address: str


class Kick(Message):
    """Which connections to end: a user's, or the one with that number. Their clients do not come back by themselves."""

    user: Annotated[str, Meta(max_length=200)] = ""
    id: int = 0
    reason: Annotated[str, Meta(max_length=100)] = ""


class Kicked(Message):
    """How many it were."""

    connections: int


class DrainConnections(Message):
    """Ask all to come again elsewhere, so many a second, for `for_s` at most; nobody new is let in."""

    per_s: Annotated[float, Meta(gt=0, le=1_000_000)] = 1000.0
    for_s: Annotated[float, Meta(gt=0, le=20)] = 5.0


class Drained(Message):
    """How many are left."""

    left: int


class Connections(Service, package="dougong.v1"):
    """The connections of one process."""

    def __init__(self, gateway: Gateway, address: GatewayAddress) -> None:
        self._gateway = gateway
        self._address = address

    @rpc(internal=True, idempotent=True, timeout_s=5.0)
    async def get_connections(self, request: GetConnections) -> ConnectionList:
        """Some, or all of a user."""
        found = self._gateway.connections(user=request.user or None, id=request.id or None, limit=request.limit)
        items = [
            ConnectionInfo(
                id=c.id,
                user=c.user,
                ip=c.ip,
                open_s=c.open_s,
                silent_s=c.silent_s,
                topics=c.topics,
                waiting_bytes=c.waiting_bytes,
            )
            for c in found
        ]
        return ConnectionList(items=items, total=len(self._gateway), pid=os.getpid(), address=self._address.address)

    @rpc(internal=True, timeout_s=5.0)
    async def kick(self, request: Kick) -> Kicked:
        """End some, with a reason that their clients show."""
        if bool(request.user) == bool(request.id):
            raise Invalid("kick a user or a connection's number, one of the two", code="bad_arguments")
        return Kicked(
            connections=self._gateway.kick(user=request.user or None, id=request.id or None, reason=request.reason)
        )

    @rpc(internal=True, idempotent=True, timeout_s=30.0)
    async def drain(self, request: DrainConnections) -> Drained:
        """Empty the gateway; ask again while some are left. Its process should end then."""
        with suppress(TimeoutError):
            async with asyncio.timeout(request.for_s):
                await self._gateway.drain(request.per_s)
        return Drained(left=len(self._gateway))
