"""`python -m shop.proof.connections OPTIONS`: a server in as many processes as asked, forked from this one.

Prints their ids and ports in a line, then answers each command (`publish`, or `status`) in one, until its input ends.
"""

from __future__ import annotations

import asyncio
import importlib
import resource
import socket
import sys
import time

import msgspec
import uvloop

from dougong.errors import Internal
from dougong.evidence import Crew
from shop.proof.connections.servers import IMPORTS, Options, Published, start
from shop.proof.connections.stand import Status, Up


def main(text: str) -> None:
    """Until the input ends."""
    options = msgspec.json.decode(text, type=Options)
    _preload(options)
    crew = Crew(options.workers, lambda _, its: uvloop.run(_serve(options, its)))
    try:
        ports = [int(line) for line in crew.hear(60.0)]
        print(msgspec.json.encode(Up(pids=crew.pids, ports=ports)).decode(), flush=True)
        for line in sys.stdin:
            parts = [msgspec.json.decode(one, type=Status) for one in crew.ask(line.strip().encode(), 60.0)]
            print(msgspec.json.encode(parts).decode(), flush=True)
    except Internal as error:
        sys.exit(f"{options.kind}: {error}")
    finally:
        crew.stop()


def _preload(options: Options) -> None:
    """What is imported before the fork exists once."""
    for module in IMPORTS[options.kind]:
        importlib.import_module(module)


async def _serve(options: Options, its: socket.socket) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    port, publish = await start(options)
    loop = asyncio.get_running_loop()
    its.setblocking(False)
    await loop.sock_sendall(its, b"%d\n" % port)
    rest = b""
    while data := await loop.sock_recv(its, 1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line != b"status":
                await publish(msgspec.json.decode(line, type=Published))
            status = Status(cpu_s=time.process_time())
            await loop.sock_sendall(its, msgspec.json.encode(status) + b"\n")


if __name__ == "__main__":
    main(sys.argv[1])
