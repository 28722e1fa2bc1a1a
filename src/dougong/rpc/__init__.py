"""Typed calls between processes: the `Service` class is the server, the client and the contract.

The one idea: **closed-loop batching under an ordinary call.** `await orders.place(order)` looks like one call; those
that arrive while a batch is under way travel together in the next, over one long-lived stream per instance, and the
method at the other end gets a list. Each caller has its own result, deadline and error. There is no timer: an idle
system answers at once, a busy one in large batches.

    server = Server([Orders(...)], authenticator=JwtAuthenticator(keys, "shop", "shop", system_token))
    address = await server.start("127.0.0.1:0")

    orders = client(Orders, resolver, token=system_token)      # or an address, or several
    placed = await orders.place(order)                          # raises dougong.errors only
    outcomes = await orders.place.many(list_of_orders)          # an error is that item's value
    await close_client(orders)

Who calls comes from a token (`authorize`, `bind_subject`), how long they wait from their deadline, which shrinks along
the way; both follow the task (`current_caller()`, `remaining_s()`). When an instance goes, what surely was not begun is
repeated elsewhere; what may have been begun only if the method is idempotent: otherwise the outcome is *unknown*, and
the error says so (`connection_lost`).

Bytes travel through a small `Transport`: gRPC between processes, memory within one and in simulations.

What it does not do: breakers, retry budgets and weights (`mesh`), finding instances (`registry`), REST (`http`).
"""

from dougong.rpc._context import Caller, call_scope, current_caller, deadline, remaining_s
from dougong.rpc._transport import (
    Connection,
    Endpoint,
    Incoming,
    Listener,
    Lost,
    Metadata,
    Route,
    Stream,
    Transport,
)
from dougong.rpc.authorize import Authenticator, authorize, bind_subject, identify, trust_everyone
from dougong.rpc.batcher import Batcher
from dougong.rpc.grpc_aio import GrpcTransport
from dougong.rpc.jwt import JwtAuthenticator, JwtIssuer
from dougong.rpc.memory import MemoryTransport
from dougong.rpc.pool import FixedAddresses, Resolver
from dougong.rpc.server import Server
from dougong.rpc.stub import client, close_client

__all__ = [
    "Authenticator",
    "Batcher",
    "Caller",
    "Connection",
    "Endpoint",
    "FixedAddresses",
    "GrpcTransport",
    "Incoming",
    "JwtAuthenticator",
    "JwtIssuer",
    "Listener",
    "Lost",
    "MemoryTransport",
    "Metadata",
    "Resolver",
    "Route",
    "Server",
    "Stream",
    "Transport",
    "authorize",
    "bind_subject",
    "call_scope",
    "client",
    "close_client",
    "current_caller",
    "deadline",
    "identify",
    "remaining_s",
    "trust_everyone",
]
