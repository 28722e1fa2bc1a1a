"""Processes of their own for tests of fan-outs: `python -m tests.gateway.fanout_process hub|hear|gateway ...`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path

import uvloop

from dougong.config import Secret
from dougong.gateway import (
    FanOut,
    Gateway,
    GatewaySettings,
    Grant,
    HistoryPolicy,
    Hub,
    LocalFanOut,
    Published,
    RedisFanOut,
    Upgrade,
)

POLICY = HistoryPolicy(messages_max=100_000)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def hub(folder: str) -> None:
    """Be the hub as soon as nobody else is, until killed."""
    await Hub(Path(folder), POLICY).stand_by()
    say("hub")
    await asyncio.Event().wait()


async def hear(kind: str, where: str, topic: str, last: str) -> None:
    """Say each message of a topic until `last` came."""
    over = asyncio.Event()

    def deliver(message: Published) -> None:
        say(f"{0 if message.offset is None else message.offset.number} {message.data[:64].decode()}")
        if message.data.startswith(last.encode()):
            over.set()

    fan_out: FanOut
    fan_out = LocalFanOut(Path(where), serves=False) if kind == "local" else RedisFanOut(Secret(where), POLICY)
    await fan_out.start(deliver, lambda lost: say(f"lost {lost}"))
    await fan_out.join(topic)
    say("joined")
    await over.wait()
    await fan_out.close()


async def gateway(kind: str, where: str, prefix: str) -> None:
    """Hold connections, and announce who is in the room, until killed."""
    fan_out: FanOut
    fan_out = LocalFanOut(Path(where), serves=False) if kind == "local" else RedisFanOut(Secret(where), prefix=prefix)
    one = presence_gateway(fan_out)
    say(str(await one.start()))
    await asyncio.Event().wait()


def presence_gateway(fan_out: FanOut) -> Gateway:
    """Everybody who connects to it is in the room, but watchers, who are told who is."""

    async def authenticate(upgrade: Upgrade) -> Grant:
        user = upgrade.query["user"]
        return Grant(user=user, topics=("presence:room",) if user == "watcher" else ("room",))

    settings = GatewaySettings(presence_term_s=3)
    return Gateway(authenticate, fan_out=fan_out, announce=lambda topic: topic == "room", settings=settings)


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    roles: dict[str, Callable[..., Coroutine[None, None, None]]] = {"hub": hub, "hear": hear, "gateway": gateway}
    uvloop.run(roles[role](*arguments))
