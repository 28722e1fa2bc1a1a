"""The processes of the experiment: a server of ours, a plain one, and the callers, who serve all measurements."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from dougong.evidence import free_port
from shop.proof.rpc_pool.load import LoadOptions, LoadResult
from shop.proof.tcc.child import Child, child

__all__ = ["Stand", "stand"]

_MODULE = "shop.proof.rpc_pool"
_START_S = 30.0
_SPARE_S = 60.0
_DOWN_S = 0.3


class Stand:
    """Both servers and the callers, up."""

    def __init__(self, ours: str, plain: str, callers: Child) -> None:
        self._ours = ours
        self._plain = plain
        self._callers = callers

    async def run(self, options: LoadOptions) -> LoadResult:
        """One load, on connections of its own."""
        address = self._ours if options.side in {"ours", "our_lists"} else self._plain
        await self._begin(msgspec.structs.replace(options, addresses=[address]))
        return await self._result(options)

    async def disturbed(self, options: LoadOptions, *, fail_share: float, max_requests: int) -> LoadResult:
        """Two servers of their own. Of the attempts to connect or to open a stream, `fail_share` fail, connections are
        replaced after `max_requests`, and one of the servers is killed and started again."""
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        async with AsyncExitStack() as stack:
            servers = [await _serve(stack, "serve-ours", address) for address in addresses]
            await self._begin(
                msgspec.structs.replace(options, addresses=addresses, fail_share=fail_share, max_requests=max_requests)
            )
            await asyncio.sleep(options.seconds / 4)
            await servers[0].kill()
            await asyncio.sleep(_DOWN_S)
            await _serve(stack, "serve-ours", addresses[0])
            return await self._result(options)

    async def _begin(self, options: LoadOptions) -> None:
        await self._callers.tell(msgspec.json.encode(options).decode())
        await self._callers.hear(_START_S)

    async def _result(self, options: LoadOptions) -> LoadResult:
        return msgspec.json.decode(await self._callers.hear(options.seconds + _SPARE_S), type=LoadResult)


@asynccontextmanager
async def stand() -> AsyncGenerator[Stand]:
    """Start them; they end with the block."""
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(child(_MODULE, "serve-ours", "127.0.0.1:0"))
        plain = await stack.enter_async_context(child(_MODULE, "serve-plain", "127.0.0.1:0"))
        callers = await stack.enter_async_context(child(_MODULE, "load"))
        yield Stand(await ours.hear(_START_S), await plain.hear(_START_S), callers)


async def _serve(stack: AsyncExitStack, role: str, address: str) -> Child:
    server = await stack.enter_async_context(child(_MODULE, role, address))
    await server.hear(_START_S)
    return server
