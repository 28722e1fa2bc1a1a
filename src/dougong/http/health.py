"""Alive and ready: two questions with different consequences.

`/healthz` failing gets the process killed, so it says only that the loop turns. `/readyz` failing takes the instance
out of the way, so it asks what the service depends on, and says no while the process drains.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from dougong.clock import Clock
from dougong.errors import Error, Unavailable

__all__ = ["Check", "Readiness"]

Check = Callable[[], Awaitable[None]]
"""Raises when the thing cannot be used now."""

CHECK_TIMEOUT_S = 2.0
KEPT_S = 1.0


class Readiness:
    """Runs the checks, at most once a second however often strangers ask."""

    def __init__(self, checks: Mapping[str, Check], clock: Clock) -> None:
        self._checks = dict(checks)
        self._clock = clock
        self._draining = False
        self._asked: float | None = None
        self._failure: Error | None = None
        self._lock = asyncio.Lock()

    def drain(self) -> None:
        """Say no from now on."""
        self._draining = True

    async def ensure(self) -> None:
        """Return if ready; raise `Unavailable` naming the check that failed."""
        if self._draining:
            raise Unavailable("the process is draining", code="draining")
        async with self._lock:
            now = self._clock.monotonic()
            if self._asked is None or now - self._asked >= KEPT_S:
                self._failure = await self._ask()
                self._asked = now
        if self._failure is not None:
            raise self._failure

    async def _ask(self) -> Error | None:
        for name, check in self._checks.items():
            try:
                async with asyncio.timeout(CHECK_TIMEOUT_S):
                    await check()
            except TimeoutError:
                return Unavailable(f"{name} did not answer within {CHECK_TIMEOUT_S:g} s", code="not_ready", check=name)
            except Error as error:
                return Unavailable(f"{name}: {error.message}", code="not_ready", check=name)
            except Exception as error:  # noqa: BLE001  (a check that breaks is a No, whatever broke)
                return Unavailable(f"{name} failed with {type(error).__name__}", code="not_ready", check=name)
        return None
