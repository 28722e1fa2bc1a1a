"""A room to talk in, held by several processes that share its port."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from dougong.app import App, DataDirectory
from dougong.contract import Message, Service, rpc
from dougong.gateway import FanOut, Gateway, GatewaySettings, jwt_authenticate
from dougong.rpc import Caller, JwtAuthenticator, JwtIssuer

ROOM = "room:tea"
HOLD = "hold"
"""A process that finds this file in its data directory starts no further until it is gone."""


class Say(Message):
    """Something to all."""

    number: int


class Look(Message):
    """Who is here?"""


class Here(Message):
    """In one process."""

    pid: int
    users: list[str]


class GetKey(Message):
    """For whom."""

    name: str


class Key(Message):
    """A token."""

    token: str


class Room(Service, package="several.v1"):
    """Speaks to a room, wherever its people are."""

    def __init__(self, gateway: Gateway, issuer: JwtIssuer) -> None:
        self._gateway = gateway
        self._issuer = issuer

    @rpc(http="POST /v1/say", public=True)
    async def say(self, request: Say) -> Here:
        """Tell all."""
        await self._gateway.publish(ROOM, b"%d" % request.number)
        return await self.look(Look())

    @rpc(http="GET /v1/here", public=True)
    async def look(self, request: Look) -> Here:
        """Who is connected to this process."""
        return Here(pid=os.getpid(), users=sorted(self._gateway.who(ROOM)))

    @rpc(http="GET /v1/key/{name}", public=True)
    async def key(self, request: GetKey) -> Key:
        """A token for whoever asks."""
        return Key(token=self._issuer.issue(request.name))


def topics(caller: Caller) -> tuple[str, ...]:
    return (ROOM,)


def gateway(authenticator: JwtAuthenticator, fan_out: FanOut) -> Gateway:
    return Gateway(
        jwt_authenticate(authenticator, topics=topics),
        may_subscribe=lambda user, topic: topic in {ROOM, f"presence:{ROOM}"},
        fan_out=fan_out,
        announce=lambda topic: topic == ROOM,
        settings=GatewaySettings(reconnect_s=0.2, presence_term_s=3),
    )


async def hold(data: DataDirectory) -> None:
    while (Path(data) / HOLD).exists():
        await asyncio.sleep(0.02)


room = App("room", services=[Room], front=[Room], gateway=gateway, prepare=[hold])
