"""A small app with jobs: it writes down what it does, so that tests can look."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from dougong.app import App, DataDirectory
from dougong.contract import Message, Service, rpc
from dougong.jobs import Every, Jobs, Schedule, current_job, job, needs, run_command
from dougong.store import Store, Tx


class Shelf(dict[str, int]):
    """Something that a provider makes."""


def shelf() -> Shelf:
    return Shelf(lamp=42)


@job
async def look_up(sku: str, shelf: Shelf = needs(Shelf)) -> int:
    """How many there are."""
    return shelf[sku]


@job(queue="notes", retries=1)
async def note(text: str, data: DataDirectory = needs(DataDirectory)) -> int:
    """Appends a line, and says which process did."""
    if text == "bad":
        raise ValueError("bad paper")
    with Path(data, "notes.txt").open("a") as file:
        file.write(f"{text}\n")
    return os.getpid()


@job(queue="slow")
async def hold(open_when: str) -> None:
    """Waits for a file."""
    while not Path(open_when).exists():
        current_job().heartbeat()
        await asyncio.sleep(0.02)


class Place(Message):
    """An order."""

    text: str
    fail: bool = False


class Placed(Message):
    """Which job follows from it."""

    job: str


class Desk(Service, package="jobbing.v1"):
    """Enqueues in its own transaction."""

    def __init__(self, store: Store, jobs: Jobs) -> None:
        self._store = store
        self._jobs = jobs

    @rpc(http="POST /v1/place", public=True)
    async def place(self, request: Place) -> Placed:
        """The job exists if the transaction commits."""

        async def unit(tx: Tx) -> int:
            enqueued = await self._jobs.enqueue(note.call(request.text), tx=tx)
            if request.fail:
                raise RuntimeError("no")
            return enqueued.id

        return Placed(job=str(await self._store.write(unit)))


async def idle() -> None:
    await asyncio.Event().wait()


app = App(
    "jobbing",
    services=[Desk],
    jobs=[look_up, note, hold, run_command],
    schedules=[Schedule("yearly", Every(31_536_000), note.call("year"))],
    provide=[shelf],
    background=[idle],
)
