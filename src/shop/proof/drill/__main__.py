"""`python -m shop.proof.drill hub|gateway|crowd OPTIONS`: a process of a drill.

`hub` says that it is one, and `crowd` answers each line it reads with what its clients heard; both end with their
input. `gateway` ends on SIGTERM.
"""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import uvloop

from dougong.gateway import (
    Gateway,
    GatewaySettings,
    Grant,
    Hub,
    LocalFanOut,
    Upgrade,
    Worker,
    WorkerSettings,
    run_workers,
)
from dougong.telemetry import configure_logging
from shop.proof.drill.crowd import Crowd
from shop.proof.drill.options import Options

_PATIENCE_S = 60.0
_SESSIONS_MAX = 100_000


def main(role: str, text: str) -> None:
    options = msgspec.json.decode(text, type=Options)
    configure_logging(role, json=False, level="warning")  # that gateways leave and clients come again is the plan
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if role == "gateway":
        _gateway(options)
    else:
        uvloop.run(_hub(options) if role == "hub" else _crowd(options))


def _gateway(options: Options) -> None:
    async def authenticate(upgrade: Upgrade) -> Grant:
        return Grant(user=upgrade.query["user"])

    async def serve(_: Worker) -> Gateway:
        fan_out = LocalFanOut(Path(options.folder), serves=False, timeout_s=_PATIENCE_S)
        settings = GatewaySettings(
            connections_max=_SESSIONS_MAX,
            connections_per_ip_max=_SESSIONS_MAX,
            handshakes_per_ip_max=1000,
            reconnect_s=options.reconnect_s,
        )
        return Gateway(authenticate, fan_out=fan_out, settings=settings)

    run_workers(serve, count=options.workers, port=options.port, settings=WorkerSettings(drain_s=options.drain_s))


async def _hub(options: Options) -> None:
    hub = Hub(Path(options.folder))
    await hub.start()
    print("hub", flush=True)
    await _lines(lambda: "hub")
    await hub.stop()


async def _crowd(options: Options) -> None:
    crowd = Crowd(options)
    running = asyncio.create_task(crowd.run())
    await _lines(lambda: msgspec.json.encode(crowd.heard()).decode())
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def _lines(answer: Callable[[], str]) -> None:
    """Answer each line of the input, until it ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        print(answer(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
