"""Small apps that do as they are told: by settings when they run as processes, or made to order in one process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import msgspec

from dougong.app import App, Glance, StatusRow, StatusTable
from dougong.contract import Message, Service, Subject, rpc
from dougong.gateway import Gateway, GatewaySettings, jwt_authenticate
from dougong.http import File
from dougong.rpc import JwtAuthenticator, JwtIssuer


class Hello(Message):
    """Whom to greet."""

    name: str


class Greeting(Message):
    """Who greeted."""

    text: str
    pid: int


class Greeter(Service, package="sample.v1"):
    """Greets."""

    @rpc(http="GET /v1/hello/{name}", public=True)
    async def hello(self, request: Hello) -> Greeting:
        """Say hello."""
        return Greeting(text=f"hello {request.name}", pid=os.getpid())


class GetTicket(Message):
    """For whom."""

    name: str


class Ticket(Message):
    """A token."""

    token: str


class WhoAmI(Message):
    """The caller."""

    name: Subject = ""


class Tickets(Service, package="sample.v1"):
    """Issues tokens to anybody."""

    def __init__(self, issuer: JwtIssuer) -> None:
        self._issuer = issuer

    @rpc(http="GET /v1/ticket/{name}", public=True)
    async def ticket(self, request: GetTicket) -> Ticket:
        """A token for whoever asks."""
        return Ticket(token=self._issuer.issue(request.name))

    @rpc(http="GET /v1/me")
    async def me(self, request: WhoAmI) -> Greeting:
        """Say who the token names."""
        return Greeting(text=request.name, pid=os.getpid())


class Orders(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a sample app does while it starts and runs."""

    gate: str = ""
    """Waits in start until this file exists; says so by a file of that name and `.waiting`."""
    fail: str = ""
    """Raises this in start."""
    leave: bool = False
    """Leaves a process behind that holds its output."""
    stubborn: bool = False
    """Does not stop when told to."""


async def obey(orders: Orders) -> None:
    if orders.leave:
        left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        sys.stderr.write(f"left {left.pid} behind\n")
    if orders.gate:
        Path(orders.gate + ".waiting").write_text(str(os.getpid()))
        while not Path(orders.gate).exists():
            await asyncio.sleep(0.02)
    if orders.fail:
        raise RuntimeError(orders.fail)


async def be_stubborn(orders: Orders) -> None:
    if orders.stubborn:
        sys.stderr.write("stays\n")
    while orders.stubborn:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            sys.stderr.write("no\n")


def greetings() -> Glance:
    async def glance() -> list[StatusTable]:
        return [
            StatusTable(title="Greetings", columns=["to", "state"], rows=[StatusRow(cells=["<b>Bo</b>", "picking"])])
        ]

    return glance


greeter = App(
    "greeter", services=[Greeter], settings=Orders, prepare=[obey], background=[be_stubborn], glance=greetings
)
tickets = App("tickets", services=[Tickets])
desk = App("desk", front=[Tickets])


def gateway(authenticator: JwtAuthenticator) -> Gateway:
    return Gateway(jwt_authenticate(authenticator), settings=GatewaySettings(reconnect_s=0.2))


async def tick(gateway: Gateway) -> None:
    """Says who serves, again and again."""
    while True:
        await gateway.publish("user:bo", b"%d" % os.getpid())
        await asyncio.sleep(0.02)


live = App(
    "live",
    services=[Tickets],
    front=[Tickets],
    gateway=gateway,
    files={"/page.html": File("text/html; charset=utf-8", b"<!doctype html><title>Live</title>")},
    background=[tick],
)
front = App("front", front=[Greeter], settings=Orders, prepare=[obey])
