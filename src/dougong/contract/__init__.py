"""One typed contract per service: the class is the server, the client, the wire format and the docs."""

from dougong.contract._declare import (
    BatchedMethod,
    BoundBatched,
    Header,
    HttpRule,
    Message,
    Method,
    Service,
    ServiceContract,
    Subject,
    batched,
    describe,
    rpc,
)

__all__ = [
    "BatchedMethod",
    "BoundBatched",
    "Header",
    "HttpRule",
    "Message",
    "Method",
    "Service",
    "ServiceContract",
    "Subject",
    "batched",
    "describe",
    "rpc",
]
