'''One typed contract per service: the class is the server, the client, the wire format and the docs.

A service is a class, its messages are classes, and everything else is derived from them in this process, without
protoc or generated files: protobuf descriptors and a codec compiled per type, frames that carry whole batches, gRPC
reflection, `.proto` text, OpenAPI. The one thing that cannot be derived is which number a field had yesterday: that
stands in a committed lock (`contract.lock.toml`) beside the messages.

    class GetStock(Message):
        sku: Annotated[str, Meta(min_length=1)]

    class Stock(Message):
        sku: str
        available: int

    class Inventory(Service, package="shop.v1"):
        """How many of each SKU can be sold."""

        @rpc(http="GET /v1/stock/{sku}")
        async def get_stock(self, request: GetStock) -> Stock:
            """Stock of one SKU now."""

    data = codec(Stock).encode(Stock(sku="kettle", available=3))
    print(proto_text([Inventory]))

This room does no I/O beyond reading the lock: carrying calls is the business of `dougong.rpc` and `dougong.http`.
'''

from dougong.contract._batch import BatchCodec, BatchReply, BatchRequest, batch_codec
from dougong.contract._codec import Codec, codec
from dougong.contract._declare import (
    BatchedMethod,
    BoundBatched,
    Header,
    HttpRule,
    Message,
    Method,
    RawBody,
    Service,
    ServiceContract,
    Subject,
    batched,
    describe,
    field_sources,
    rpc,
)
from dougong.contract._descriptors import file_descriptors, service_pool
from dougong.contract._lock import LOCK_NAME, FieldLock, LockedField, check_lock, lock_for, lock_path, write_lock
from dougong.contract._openapi import openapi
from dougong.contract._proto import proto_files, proto_text

__all__ = [
    "LOCK_NAME",
    "BatchCodec",
    "BatchReply",
    "BatchRequest",
    "BatchedMethod",
    "BoundBatched",
    "Codec",
    "FieldLock",
    "Header",
    "HttpRule",
    "LockedField",
    "Message",
    "Method",
    "RawBody",
    "Service",
    "ServiceContract",
    "Subject",
    "batch_codec",
    "batched",
    "check_lock",
    "codec",
    "describe",
    "field_sources",
    "file_descriptors",
    "lock_for",
    "lock_path",
    "openapi",
    "proto_files",
    "proto_text",
    "rpc",
    "service_pool",
    "write_lock",
]
