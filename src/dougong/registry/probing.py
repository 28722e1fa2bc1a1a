"""Probing: asks the doubted whether they live, a few at a time, each within a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from dougong.clock import Clock
from dougong.errors import Error
from dougong.registry.health import Health, HealthBook
from dougong.telemetry import get_logger

__all__ = ["PROBES_AT_ONCE", "PROBE_S", "Probe", "Prober"]

PROBE_S = 0.5
"""A process that has not answered in this time is not one to send calls to."""
PROBES_AT_ONCE = 16


class Probe(Protocol):
    """Finds out whether anybody serves at an address. The registry has no network of its own: who has one brings it."""

    async def probe(self, address: str) -> bool:
        """Whether it answers that it serves. Errors and time-outs count as a no; it is cancelled after 0.5 s."""


class Prober:
    """The book of doubts, worked off. `changed(address, alive)` is called after every clear answer.

    Addresses that `known` does not know any more are forgotten instead of probed.
    """

    def __init__(
        self,
        probe: Probe,
        book: HealthBook,
        clock: Clock,
        *,
        known: Callable[[str], bool],
        changed: Callable[[str, bool], None],
        deadline_s: float = PROBE_S,
        at_once: int = PROBES_AT_ONCE,
    ) -> None:
        self._probe = probe
        self._book = book
        self._clock = clock
        self._known = known
        self._changed = changed
        self._deadline_s = deadline_s
        self._at_once = at_once
        self._running = 0
        self._wake = asyncio.Event()
        self._heard = asyncio.Event()

    def health(self, address: str) -> Health:
        return self._book.health(address)

    def doubt(self, address: str, *, after_s: float = 0.0) -> None:
        """Somebody has a reason to ask."""
        self._book.doubt(address, self._clock.monotonic(), after_s=after_s)
        self._wake.set()

    def forget(self, address: str) -> bool:
        """It gave a sign of life by itself; whether it was dead until now."""
        self._heard.set()
        return self._book.forget(address)

    async def ask(self, addresses: Sequence[str]) -> None:
        """Doubt all of them, and wait until each is clear. Needs `run`."""
        for address in addresses:
            self.doubt(address)
        while any(self._book.health(address) is Health.DOUBTED for address in addresses):
            self._heard.clear()
            await self._heard.wait()

    async def run(self) -> None:
        """Probe until cancelled."""
        async with asyncio.TaskGroup() as probes:
            while True:
                self._wake.clear()
                now = self._clock.monotonic()
                for address in self._book.due(now, self._at_once - self._running):
                    if self._known(address):
                        self._running += 1
                        probes.create_task(self._ask(address), name=f"probe {address}")
                    else:
                        self._book.forget(address)
                        self._heard.set()
                due = self._book.next_due() if self._running < self._at_once else None
                try:
                    async with asyncio.timeout(None if due is None else max(0.0, due - now)):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    async def _ask(self, address: str) -> None:
        asked_at = self._clock.monotonic()
        try:
            alive = await self._answer(address)
        finally:
            self._running -= 1
            self._wake.set()
        now = self._clock.monotonic()
        if alive is None:
            self._book.unclear(address, now)
            return
        self._book.answered(address, alive, now, asked_at=asked_at)
        try:
            self._changed(address, alive)
        except Exception:  # noqa: BLE001 (a fault about one)
            get_logger(__name__).exception("probe_fault", address=address)  # and the others are probed all the same
        self._heard.set()

    async def _answer(self, address: str) -> bool | None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        alive = False
        with suppress(Error, OSError):  # a TimeoutError is one of the latter
            try:
                async with asyncio.timeout(self._deadline_s):
                    alive = await self._probe.probe(address)
            except (Error, OSError):
                raise
            except Exception as error:  # noqa: BLE001 (a prober with a bug proves nothing about others)
                get_logger(__name__).error("probe_broken", address=address, error=repr(error))
                return None
        # A no that came much too late says that this process stood still, and nothing about the other one.
        return None if not alive and loop.time() - began > 2 * self._deadline_s else alive
