"""Clients as people have them: each follows its own topic, and comes again when it is asked to."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import msgspec

from dougong.errors import Error
from dougong.evidence import Latencies
from dougong.gateway import ClientSettings, LiveClient, Pauses, Told
from shop.proof.drill.options import Heard, Options

__all__ = ["Crowd", "Message"]

_LOOK_S = 0.1


class Message(msgspec.Struct, frozen=True, array_like=True):
    """What is published to a client's topic."""

    number: int
    """0, 1, 2, ... of that topic."""
    at_us: int
    """The monotonic clock's time."""


_read = msgspec.json.Decoder(Message).decode


class Crowd:
    """So many clients in this process."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._clients: list[LiveClient] = []
        self._following = self._told = self._again = self._astray = self._gaps = self._ended = 0
        self._began: Counter[int] = Counter()
        self._late = Latencies()
        self._lag_s = 0.0

    async def run(self) -> None:
        """Begin one after the other; until cancelled."""
        options, start = self._options, time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for place in range(options.sessions):
                await asyncio.sleep(max(0.0, start + place / options.connect_per_s - time.monotonic()))
                tasks.create_task(self._be(options.first + place))
            await self._watch()

    def heard(self) -> Heard:
        """So far; lists begin anew."""
        began, self._began = self._began, Counter()
        late, self._late = self._late, Latencies()
        lag_s, self._lag_s = self._lag_s, 0.0
        return Heard(
            connected=sum(client.connected for client in self._clients),
            following=self._following,
            told=self._told,
            again=self._again,
            astray=self._astray,
            gaps=self._gaps,
            ended=self._ended,
            connections=sum(client.connections for client in self._clients),
            began=list(began.items()),
            lag_s=lag_s,
            late=late.buckets(),
        )

    async def _be(self, number: int) -> None:
        url = f"ws://127.0.0.1:{self._options.port}/live?user={number}"
        expected = 0
        try:
            async with LiveClient(url, settings=ClientSettings(pauses=Pauses(first_s=0.2, max_s=10.0))) as client:
                self._clients.append(client)
                subscription = await client.subscribe(f"user:{number}", timeout_s=60.0)
                self._following += 1
                async for told in subscription:
                    expected = self._take(told, expected) if isinstance(told, Told) else self._gap(expected)
        except Error:
            self._ended += 1

    def _take(self, told: Told, expected: int) -> int:
        message = _read(told.data)
        self._late.record(time.monotonic() - message.at_us / 1e6)
        if message.number < expected:
            self._again += 1
            return expected
        self._told += 1
        self._astray += message.number != expected
        return message.number + 1

    def _gap(self, expected: int) -> int:
        self._gaps += 1
        return expected

    async def _watch(self) -> None:
        """See connections begin."""
        known: dict[int, int] = {}
        while True:
            due = time.monotonic() + _LOOK_S
            await asyncio.sleep(_LOOK_S)
            self._lag_s = max(self._lag_s, time.monotonic() - due)
            now = time.monotonic_ns() // 100_000_000
            for place, client in enumerate(self._clients):
                before = known.get(place, 0)
                if client.connections != before:
                    self._began[now] += client.connections - max(1, before)
                    known[place] = client.connections
