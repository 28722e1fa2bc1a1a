"""`python -m shop.proof.rpc_pool serve-ours|serve-plain|load …`: one process of the experiment."""

from __future__ import annotations

import asyncio
import gc
import sys

import msgspec
import uvloop

from dougong.rpc import Server
from shop.proof.rpc_pool.load import LoadOptions, load
from shop.proof.rpc_pool.placing import Book, Placing
from shop.proof.rpc_pool.plain import serve


async def _serve_ours(address: str) -> None:
    server = Server([Placing(Book())])
    print(await server.start(address), flush=True)
    await asyncio.Event().wait()


async def _serve_plain(address: str) -> None:
    server, address = await serve(address)
    print(address, flush=True)
    await server.wait_for_termination()


def main(role: str, address: str = "") -> None:
    """Run one role until it is done, or for ever."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 1000)  # as long-lived processes do: full collections would show as latency
    match role:
        case "serve-ours":
            uvloop.run(_serve_ours(address))
        case "serve-plain":
            uvloop.run(_serve_plain(address))
        case "load":
            for line in sys.stdin:
                options = msgspec.json.decode(line, type=LoadOptions)
                print(
                    msgspec.json.encode(uvloop.run(load(options, begun=lambda: print("begun", flush=True)))).decode(),
                    flush=True,
                )
        case _:
            sys.exit(f"there is no role {role!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
