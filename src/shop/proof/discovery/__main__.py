"""`python -m shop.proof.discovery watch|watch-zookeeper|serve|hold …`: one process of the experiment."""

from __future__ import annotations

import asyncio
import gc
import sys

import uvloop


def _say(line: str) -> None:
    print(line, flush=True)


async def _serve(url: str) -> None:
    from dougong.registry import Instance, Registration, open_registry
    from dougong.rpc import Server
    from shop.proof.rpc_pool.placing import Book, Placing

    registry = await open_registry(url)
    server = Server([Placing(Book())])
    address = await server.start("127.0.0.1:0")
    await Registration(registry, [Instance(service="proof.v1.Placing", address=address)]).start()
    _say(address)
    await asyncio.Event().wait()


def _hold(hosts: str, path: str, session_s: float) -> None:
    """Be there, as an ephemeral node, until killed."""
    import threading

    from kazoo.client import KazooClient

    client = KazooClient(hosts=hosts, timeout=session_s)
    client.start()
    client.create(path, b"", ephemeral=True, makepath=True)
    _say("held")
    threading.Event().wait()


def main(role: str, *arguments: str) -> None:
    """Run one role until stdin ends, or for ever."""
    from shop.proof.discovery.watchers import watch, watch_zookeeper

    gc.freeze()
    match role:
        case "watch":
            uvloop.run(watch(arguments[0], int(arguments[1]), _say))
        case "watch-zookeeper":
            watch_zookeeper(arguments[0], arguments[1], int(arguments[2]), _say)
        case "serve":
            uvloop.run(_serve(arguments[0]))
        case "hold":
            _hold(arguments[0], arguments[1], float(arguments[2]))
        case _:
            sys.exit(f"there is no role {role!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
