"""Processes to kill: `python -m tests.tcc.till shelf|till …`. A till initiates transactions over two shelves.

Each listens where it is told, on the database it is told, so that a new one is what the old one was.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import uvloop

from dougong.contract import Message, Service, rpc
from dougong.rpc import Server, client, trust_everyone
from dougong.store import Store, Tx, open_store
from dougong.tcc import (
    Coordinator,
    CoordinatorSettings,
    Decision,
    NewTransaction,
    ParticipantService,
    RetrySchedule,
    participant_service,
)
from shop.proof.tcc.shelf import Shelf, Take

SHELVES = ("one", "two")
SETTINGS = CoordinatorSettings(
    try_timeout_s=2.0,
    grace_s=0.5,
    scan_every_s=0.1,
    lease_s=1.0,
    message_delay_s=0.3,
    retry=RetrySchedule(base_s=0.05, cap_s=0.5, attempts=1000),
)


class Place(Message):
    """Transactions, each one quantity of one SKU from both shelves."""

    ids: list[int]
    skus: list[int]
    quantities: list[int]


class Placed(Message):
    """One answer each, in order."""

    accepted: list[bool]


class Till(Service, package="test.v1"):
    """Places orders."""

    def __init__(self, store: Store, addresses: Sequence[str]) -> None:
        shelves = {
            f"{Shelf.service}#{name}": client(participant_service(Shelf), address)
            for name, address in zip(SHELVES, addresses, strict=True)
        }
        self.coordinator = Coordinator(store, initiator="till", participants=shelves, decide=decide, settings=SETTINGS)

    @rpc(timeout_s=5.0)
    async def place(self, request: Place) -> Placed:
        """Run them; the outcomes."""
        outcomes = await self.coordinator.run(
            [
                NewTransaction(i, {f"{Shelf.service}#{name}": Take(sku, quantity) for name in SHELVES})
                for i, sku, quantity in zip(request.ids, request.skus, request.quantities, strict=True)
            ]
        )
        return Placed(accepted=[outcome.accepted for outcome in outcomes])


async def decide(tx: Tx, decisions: Sequence[Decision]) -> None:
    """The initiator's own rows; a second decision of one transaction breaks the key."""
    await tx.execute_many(
        "INSERT INTO decided (id, accepted) VALUES (?, ?)", [(d.transaction, int(d.accepted)) for d in decisions]
    )


async def serve(role: str, url: str, address: str, shelves: Sequence[str]) -> None:
    store = await open_store(url, name=role)
    if role == "till":
        till = Till(store, shelves)
        await till.coordinator.start()
        service: Service = till
    else:
        service = ParticipantService(Shelf(store.dialect), store)
        await service.start()
    server = Server([service], authenticator=trust_everyone)
    await server.start(address)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]))
