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
the way; both follow the task (`current_caller()`, `remaining_s()`), as does where the call entered the system: the
client's address and session, told on from process to process (`current_origin()`). When an instance goes, what surely
was not begun is repeated elsewhere; what may have been begun only if the method is idempotent: otherwise the outcome is
*unknown*, and the error says so (`connection_lost`).

Connections are pooled (`PoolSettings`, `pool_stats`): checked before use, bounded, retired without an error; sealed by
mutual TLS with `GrpcTransport(tls=TlsSettings(...))`. `with baggage(colour="green")` goes along through every hop, and
`with why() as record` tells what became of a call.

Bytes travel through a small `Transport`: gRPC between processes, memory within one and in simulations.

What it does not do: decide whom to call and whether again (`mesh`), find instances (`registry`), REST (`http`).
"""

from dougong.rpc._baggage import baggage, current_baggage
from dougong.rpc._context import (
    Caller,
    Origin,
    call_scope,
    current_caller,
    current_origin,
    deadline,
    remaining_s,
)
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
from dougong.rpc.credentials import TokenProvider, credentials, token_expiry_us
from dougong.rpc.ended import EndedSessions
from dougong.rpc.grpc_aio import GrpcTransport
from dougong.rpc.jwt import JwtAuthenticator, JwtIssuer
from dougong.rpc.keyring import KeyRing, key_thumbprint
from dougong.rpc.memory import MemoryTransport
from dougong.rpc.pool import FixedAddresses, Resolver
from dougong.rpc.pool_settings import PoolSettings, PoolStats
from dougong.rpc.probe import GrpcProbe
from dougong.rpc.server import Server
from dougong.rpc.stub import client, close_client, pool_stats
from dougong.rpc.tls import TlsSettings, is_loopback
from dougong.rpc.why import CallRecord, why

__all__ = [
    "Authenticator",
    "Batcher",
    "CallRecord",
    "Caller",
    "Connection",
    "EndedSessions",
    "Endpoint",
    "FixedAddresses",
    "GrpcProbe",
    "GrpcTransport",
    "Incoming",
    "JwtAuthenticator",
    "JwtIssuer",
    "KeyRing",
    "Listener",
    "Lost",
    "MemoryTransport",
    "Metadata",
    "Origin",
    "PoolSettings",
    "PoolStats",
    "Resolver",
    "Route",
    "Server",
    "Stream",
    "TlsSettings",
    "TokenProvider",
    "Transport",
    "authorize",
    "baggage",
    "bind_subject",
    "call_scope",
    "client",
    "close_client",
    "credentials",
    "current_baggage",
    "current_caller",
    "current_origin",
    "deadline",
    "identify",
    "is_loopback",
    "key_thumbprint",
    "pool_stats",
    "remaining_s",
    "token_expiry_us",
    "trust_everyone",
    "why",
]
