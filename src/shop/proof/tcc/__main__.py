"""`python -m shop.proof.tcc shelf|load|row-lock …`: one process of the experiment; the answer is a line of JSON."""

from __future__ import annotations

import asyncio
import gc
import sys
from pathlib import Path

import msgspec
import uvloop

from dougong.rpc import Server, trust_everyone
from dougong.store import open_store
from dougong.tcc import ParticipantService
from shop.proof.tcc.load import LoadOptions, load
from shop.proof.tcc.row_lock import mysql_row_lock, sqlite_row_lock
from shop.proof.tcc.shelf import Shelf, stock_up


async def _shelf(url: str, group_max: int, address: str) -> None:
    store = await open_store(url, name="shelf", group_max=group_max)
    await stock_up(store)
    service = ParticipantService(Shelf(store.dialect), store)
    await service.start()
    server = Server([service], authenticator=trust_everyone)
    print(await server.start(address), flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await server.drain(1.0)
        await store.close()


def main(role: str, *arguments: str) -> None:
    """Run one role until it is done, or for ever."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 1000)  # as long-lived processes do: full collections would show as latency
    match role:
        case "shelf":
            uvloop.run(_shelf(arguments[0], int(arguments[1]), arguments[2]))
        case "load":
            options = msgspec.json.decode(arguments[0], type=LoadOptions)
            print(msgspec.json.encode(uvloop.run(load(options))).decode())
        case "row-lock":
            url, seconds, skus = arguments[0], float(arguments[1]), int(arguments[2])
            if url.startswith("sqlite:///"):
                print(sqlite_row_lock(Path(url.removeprefix("sqlite:///")), seconds, skus))
            else:
                print(uvloop.run(mysql_row_lock(url, seconds, skus)))
        case _:
            sys.exit(f"there is no role {role!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
