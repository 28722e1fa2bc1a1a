"""For services that hold no connections and have something to say to those who do."""

from __future__ import annotations

from typing import Self

import msgspec

from dougong.gateway.fanout._protocol import FanOut, Published
from dougong.gateway.history import Offset
from dougong.gateway.outbox import Slow

__all__ = ["Publisher"]

_encode = msgspec.json.Encoder().encode


class Publisher:
    """`Publisher(fan_out)`, with the fan-out that the gateways have; `start`, and `stop` at the end.

        await publisher.tell("7", {"order": "42", "state": "shipped"})

    It joins no topic and keeps nothing in this process. In an app it is provided:

        async def publisher() -> AsyncIterator[Publisher]:
            async with Publisher(RedisFanOut(url, prefix="shop")) as one:
                yield one

        app = App("orders", provide=[publisher], ...)
    """

    def __init__(self, fan_out: FanOut) -> None:
        self._fan_out = fan_out

    async def start(self) -> None:
        await self._fan_out.start(_deaf, _deaf)

    async def stop(self) -> None:
        await self._fan_out.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def tell(self, user: str, value: object, *, slow: Slow = Slow.RESUME, keep: bool = True) -> Offset | None:
        """Say something to a user, wherever he is connected: `value` becomes JSON."""
        return await self.publish(f"user:{user}", _encode(value), slow=slow, keep=keep)

    async def publish(self, topic: str, data: bytes, *, slow: Slow = Slow.RESUME, keep: bool = True) -> Offset | None:
        """Say something to all members of a topic; `data` is JSON. Raises what `FanOut.publish` does."""
        return await self._fan_out.publish(topic, data, slow=slow, keep=keep)


def _deaf(_: Published | str) -> None:
    """Nothing was joined, so nothing comes."""
