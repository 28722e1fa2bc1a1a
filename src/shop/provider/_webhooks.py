"""Telling the shop: signed, again and again until it is heard, as well as the provider behaves today.

The signature is HMAC-SHA256 over `TIMESTAMP.BODY`, sent as `Webhook-Signature: t=TIMESTAMP,v1=HEX`; each attempt is
signed anew, so that a receiver can refuse old ones.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Sequence

import aiohttp
import msgspec

from shop.provider._behaviour import Behaviour
from shop.provider._intents import Event

__all__ = ["Webhooks", "signature"]

ATTEMPTS_MAX = 100
PAUSE_S_MIN = 0.1
PAUSE_S_MAX = 5.0
ANSWER_S = 10.0
UNDER_WAY_MAX = 10_000
_AT_ONCE = 64

_encode = msgspec.json.Encoder().encode
_log = logging.getLogger("provider")


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """The value of `Webhook-Signature`."""
    digest = hmac.new(secret.encode(), b"%d." % timestamp + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


class Webhooks:
    """Delivers events. `behaviour` is asked at every attempt."""

    def __init__(self, secret: str, behaviour: Callable[[], Behaviour]) -> None:
        self._secret = secret
        self._behaviour = behaviour
        self._http: aiohttp.ClientSession | None = None
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._under_way: set[asyncio.Task[None]] = set()
        self.attempts = 0
        self.heard = 0

    def send(self, url: str, events: Sequence[Event]) -> None:
        """Deliver these events of one payment, in order unless told otherwise."""
        behaviour = self._behaviour()
        if not events or behaviour.never or len(self._under_way) >= UNDER_WAY_MAX:
            return
        ordered = reversed(events) if behaviour.reorder else events
        coming = [event for event in ordered for _ in range(behaviour.copies)]
        task: asyncio.Task[None] = asyncio.create_task(self._deliver(url, coming))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def close(self) -> None:
        """Give up what is under way."""
        for task in tuple(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    async def _deliver(self, url: str, events: Sequence[Event]) -> None:
        await asyncio.sleep(self._behaviour().late_s)
        for event in events:
            body = _encode(event)
            pause_s = PAUSE_S_MIN
            for attempt in range(ATTEMPTS_MAX):
                if await self._heard(url, body, attempt):
                    break
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_S_MAX)
            else:
                _log.warning("event %s was not heard in %d attempts", event.id, ATTEMPTS_MAX)

    async def _heard(self, url: str, body: bytes, attempt: int) -> bool:
        behaviour = self._behaviour()
        wrong = attempt < behaviour.wrong_signatures
        signed = signature("another" if wrong else self._secret, int(time.time() - behaviour.stale_s), body)
        headers = {"Webhook-Signature": signed, "Content-Type": "application/json"}
        self.attempts += 1
        if self._http is None:
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_S))
        try:
            async with self._turns, self._http.post(url, data=body, headers=headers) as answer:
                heard = 200 <= answer.status < 300
        except (aiohttp.ClientError, TimeoutError):
            heard = False
        self.heard += heard
        return heard
