"""An app whose gateway is several processes on one port: what is said anywhere is heard everywhere, whoever dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from tests.app.conftest import PATIENCE_S, running, trying, until
from tests.app.several import HOLD, ROOM

from dougong.app import Process, ProcessState
from dougong.errors import Conflict, Unavailable
from dougong.evidence.engines import free_port
from dougong.gateway import ClientSettings, Gap, LiveClient, Pauses, Subscription, Told

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("supervisor")]

QUICK = ClientSettings(pauses=Pauses(first_s=0.05, max_s=0.2))
CLIENTS_MAX = 24


class Guest:
    """A client, what it heard in the room, and who it thinks is there: (user, process)."""

    def __init__(self, client: LiveClient) -> None:
        self.client = client
        self.heard: list[int] = []
        self.gaps = 0
        self.there: set[tuple[str, str]] = set()

    async def listen(self, said: Subscription) -> None:
        async for told in said:
            if isinstance(told, Told):
                self.heard.append(int(told.data))
            else:
                self.gaps += 1

    async def watch(self, presence: Subscription) -> None:
        async for told in presence:
            if isinstance(told, Gap):
                self.gaps += 1
                continue
            event = json.loads(told.data)
            if event["event"] == "join":
                self.there.add((event["user"], event["process"]))
            elif event["event"] == "leave":
                self.there.discard((event["user"], event["process"]))
            else:
                self.there = {one for one in self.there if one[1] in event["processes"]}


class Room:
    """The processes, as one sees them from outside."""

    def __init__(self, http: aiohttp.ClientSession, processes: Sequence[Process], port: int) -> None:
        self.http = http
        self.fronts = {p.pid: f"http://{p.http}" for p in processes}
        self.url = f"ws://127.0.0.1:{port}/live"

    async def enter(self, name: str, stack: AsyncExitStack) -> Guest:
        front = next(iter(self.fronts.values()))
        async with self.http.get(f"{front}/v1/key/{name}") as answer:
            token = str((await answer.json())["token"])

        async def key(renew: bool) -> str:
            return token

        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        guest = Guest(await stack.enter_async_context(LiveClient(self.url, token=key, settings=QUICK)))
        tasks.create_task(guest.watch(await guest.client.subscribe(f"presence:{ROOM}")))
        tasks.create_task(guest.listen(await guest.client.subscribe(ROOM)))
        return guest

    async def users(self, pid: int) -> set[str]:
        async with self.http.get(f"{self.fronts[pid]}/v1/here") as answer:
            here = await answer.json()
        assert here["pid"] == pid
        return set(here["users"])

    async def say(self, pid: int, number: int) -> None:
        """Until it is said: while the processes agree anew who passes on what is said, it may not be."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                async with self.http.post(f"{self.fronts[pid]}/v1/say", json={"number": number}) as answer:
                    if answer.status == 200:
                        return
                await asyncio.sleep(0.05)


async def test_two_share_a_port_and_who_loses_one_misses_nothing(tmp_path: Path) -> None:
    port = free_port()
    table = f'[apps.room]\ntarget = "tests.app.several:room"\nlive = "127.0.0.1:{port}"\ninstances = 2\n'
    async with (
        asyncio.timeout(4 * PATIENCE_S),
        running(tmp_path, table) as it,
        aiohttp.ClientSession() as http,
        AsyncExitStack() as stack,
    ):
        room = Room(http, it.supervisor.processes, port)
        guests: dict[str, Guest] = {}
        while len(guests) < 4 or not all([await room.users(pid) for pid in room.fronts]):
            assert len(guests) < CLIENTS_MAX, "the kernel deals them out"
            name = f"guest-{len(guests)}"
            guests[name] = await room.enter(name, stack)
        first = guests["guest-0"]
        await until(lambda: {user for user, _ in first.there} >= guests.keys() - {"guest-0"})

        numbers = iter(range(1000))
        said = [next(numbers) for _ in room.fronts]
        for pid, number in zip(room.fronts, said, strict=True):
            await room.say(pid, number)
        await until(lambda: all(guest.heard == said for guest in guests.values()))

        # The one that dies is the one through which all messages went.
        killed = int((tmp_path / "data" / "room.hub" / "hub.lock").read_text())
        (survivor,) = room.fronts.keys() - {killed}
        cut_off = await room.users(killed)
        before = {name: guests[name].client.connections for name in cut_off}
        gone = {process for user, process in first.there if user in cut_off}
        (tmp_path / "data" / HOLD).touch()  # nobody takes its place, for now
        os.kill(killed, signal.SIGKILL)
        for _ in range(5):
            said.append(next(numbers))
            await room.say(survivor, said[-1])
        await until(lambda: all(guest.heard[-1:] == said[-1:] for guest in guests.values()))
        for guest in guests.values():
            assert sorted(set(guest.heard)) == said
            assert guest.heard == sorted(guest.heard)  # one that was said twice, when it was unknown, stands twice
            assert not guest.gaps
        assert await room.users(survivor) == guests.keys()
        assert all(guests[name].client.connections > before[name] for name in cut_off)
        # Who was there by the dead process is there by the other, and by no other.
        await until(lambda: not {process for _, process in first.there} & gone)
        await until(lambda: {user for user, _ in first.there} >= guests.keys() - {"guest-0"})
        (tmp_path / "data" / HOLD).unlink()
        # Once another has taken its place, some go there.
        (new,) = [p for p in it.supervisor.processes if p.pid != survivor]
        await until(lambda: new.state is ProcessState.SERVING)
        room.fronts[new.pid] = f"http://{new.http}"
        async with asyncio.timeout(PATIENCE_S):
            while not await room.users(new.pid):
                await asyncio.sleep(0.1)
        assert not any(guest.gaps for guest in guests.values())


async def test_processes_that_could_not_hear_each_other_do_not_start(tmp_path: Path) -> None:
    table = f'[apps.live]\ntarget = "tests.app.sample:live"\nlive = "127.0.0.1:{free_port()}"\ninstances = 2\n'
    with pytest.raises(Unavailable, match=r"live has 2 instances.*Gateway\(\.\.\., fan_out=fan_out\)"):
        async with running(tmp_path, table):
            pass


async def test_another_app_cannot_have_the_port(tmp_path: Path) -> None:
    port = free_port()
    table = "".join(
        f'[apps.{name}]\ntarget = "tests.app.several:room"\nlive = "127.0.0.1:{port}"\ninstances = 2\n'
        for name in ("room", "hall")
    )
    with pytest.raises(Conflict, match=rf"room and hall both want 127\.0\.0\.1:{port}.*live of \[apps\.hall\]"):
        await trying(tmp_path, table).supervisor.start()


async def test_the_port_is_theirs_while_none_of_them_listens(tmp_path: Path) -> None:
    """Two systems that shared it by mistake would have each other's clients."""
    table = f'[apps.room]\ntarget = "tests.app.several:room"\nlive = "127.0.0.1:{free_port()}"\ninstances = 2\n'
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / HOLD).touch()
    it, other = trying(tmp_path, table), trying(tmp_path, table, data="other")
    starting = asyncio.create_task(it.supervisor.start(ready_s=PATIENCE_S))
    try:
        await until(lambda: it.states)
        with pytest.raises(Conflict, match=r"room wants .*Address already in use"):
            await other.supervisor.start(ready_s=1.0)
    finally:
        starting.cancel()
        await asyncio.wait([starting])
