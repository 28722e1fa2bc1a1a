"""The same service over `grpc.aio` as it comes: default channel, default options, protobuf's own messages.

Batches ride as people send them: orders that wait are written to a fresh bidirectional stream, one message each, their
answers read from it, and the stream is done. The batching itself is as good as ours: what waits when a stream is done
goes out in the next, nobody waits for a timer, and as many orders are under way. So the difference is what becomes of a
batch: a stream opened for it and a message per order, against a kept stream and a frame.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.message_factory import GetMessageClass

from dougong.contract import service_pool
from shop.proof.rpc_pool.placing import Book, Placing

__all__ = ["Plain", "serve"]

_PATH = "/proof.v1.Placing/"


class _Wire(Protocol):
    """A message class as protoc generates it."""

    def __call__(self, **fields: object) -> Any: ...
    def FromString(self, data: bytes) -> Any: ...  # noqa: N802 (protobuf's name)


def _message(name: str) -> _Wire:
    kind: Any = GetMessageClass(service_pool((Placing,)).FindMessageTypeByName(f"proof.v1.{name}"))
    return kind  # type: ignore[no-any-return]


_ORDER, _PLACED, _COUNTED = _message("Order"), _message("Placed"), _message("Counted")


def _bytes(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def _placed(book: Book, order: Any) -> Any:
    number, total = book.enter(order.quantity)
    return _PLACED(order_id=number, total_minor=total, state="placed")


async def serve(address: str) -> tuple[grpc.aio.Server, str]:
    """A server with default options; the address with its real port."""
    book = Book()

    async def place(order: Any, _: object) -> Any:
        return _placed(book, order)

    async def place_each(orders: AsyncIterator[Any], _: object) -> AsyncIterator[Any]:
        async for order in orders:
            yield _placed(book, order)

    async def count(_: bytes, __: object) -> Any:
        return _COUNTED(orders=book.orders)

    read, write = _ORDER.FromString, _bytes
    handlers = {
        "Place": grpc.unary_unary_rpc_method_handler(place, read, write),
        "PlaceEach": grpc.stream_stream_rpc_method_handler(place_each, read, write),
        "Count": grpc.unary_unary_rpc_method_handler(count, None, write),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("proof.v1.Placing", handlers),))
    host, _, _ = address.rpartition(":")
    port = server.add_insecure_port(address)
    await server.start()
    return server, f"{host}:{port}"


class Plain:
    """A client on the default channel. `batch` orders at most share a stream, `streams` are under way at most."""

    def __init__(self, address: str, *, batch: int, streams: int) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        read, write = _PLACED.FromString, _bytes
        self._place = self._channel.unary_unary(f"{_PATH}Place", write, read)
        self._place_each = self._channel.stream_stream(f"{_PATH}PlaceEach", write, read)
        self._count = self._channel.unary_unary(f"{_PATH}Count", None, _COUNTED.FromString)
        self._batch = batch
        self._streams = streams
        self._waiting: deque[tuple[Any, asyncio.Future[int]]] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self.opened = 0
        """Streams made: each carries one batch."""

    async def place(self, fields: dict[str, object]) -> int:
        """One order, in a batch with others; what it costs."""
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((_ORDER(**fields), answer))
        if len(self._workers) < self._streams:
            worker = asyncio.get_running_loop().create_task(self._carry())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        return await answer

    async def place_list(self, orders: Sequence[dict[str, object]]) -> list[int]:
        """Orders that are a list already: a stream for them, nothing else."""
        return await self._stream([_ORDER(**fields) for fields in orders])

    async def place_alone(self, fields: dict[str, object]) -> int:
        """One order, one call."""
        total: int = (await self._place(_ORDER(**fields))).total_minor
        return total

    async def count(self) -> int:
        orders: int = (await self._count(b"")).orders
        return orders

    async def close(self) -> None:
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        await self._channel.close(None)

    async def _carry(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
            try:
                totals = await self._stream([order for order, _ in batch])
            except grpc.aio.AioRpcError as error:
                for _, answer in batch:
                    answer.set_exception(error)
                continue
            for (_, answer), total in zip(batch, totals, strict=True):
                answer.set_result(total)

    async def _stream(self, orders: Sequence[Any]) -> list[int]:
        self.opened += 1
        call = self._place_each(None)
        for order in orders:
            await call.write(order)
        await call.done_writing()
        return [placed.total_minor async for placed in call]
