"""Gateway: a million long-lived connections, and what is pushed to them.

For order status on a screen, chats, presence: whatever a server has to say before it is asked. The one idea: **what an
idle connection costs decides how many there can be**, so one has no task, no timer, no buffer and no transport: it is
a number to the kernel, a few slots here, and a place in one timing wheel.

    gateway = Gateway(authenticate)                        # who connects: a user, for how long, with which topics
    port = await gateway.start("127.0.0.1", 8700)
    await gateway.publish("user:7", b'{"order":"42","state":"shipped"}')

A client that was away for a moment names the last offset it has and gets what it missed, or is told that it cannot. A
peer that reads too slowly costs a bounded number of bytes, and what gives way is what the topic says.

It does not: end TLS (the balancer before it does), keep messages for hours (a database does), or speak for services:
calls are handed to them.
"""

from dougong.gateway.asking import Asker
from dougong.gateway.browser import browser_client
from dougong.gateway.capacity import Limit, Machine, limits, read_machine
from dougong.gateway.client import ClientSettings, LiveClient, Subscription, Token
from dougong.gateway.connection import Patience
from dougong.gateway.conversation import Calls, MaySubscribe
from dougong.gateway.doorway import Authenticate, Grant
from dougong.gateway.evening import Counts, Evening, EveningSettings
from dougong.gateway.fanout import FanOut, Hub, InProcess, LocalFanOut, Published, Publisher, RedisFanOut
from dougong.gateway.following import Gap, Told
from dougong.gateway.frames import (
    CloseCode,
    FrameLimits,
    FrameReader,
    Opcode,
    ProtocolError,
    encode_frame,
    read_close,
)
from dougong.gateway.gateway import Gateway
from dougong.gateway.handshake import Upgrade
from dougong.gateway.history import HistoryPolicy, Missed, Offset
from dougong.gateway.messages import Call
from dougong.gateway.outbox import Slow
from dougong.gateway.returning import Pauses
from dougong.gateway.roster import Shown
from dougong.gateway.service import service_calls
from dougong.gateway.settings import GatewaySettings
from dougong.gateway.token import jwt_authenticate
from dougong.gateway.workers import Worker, WorkerSettings, hold_port, run_workers

__all__ = [
    "Asker",
    "Authenticate",
    "Call",
    "Calls",
    "ClientSettings",
    "CloseCode",
    "Counts",
    "Evening",
    "EveningSettings",
    "FanOut",
    "FrameLimits",
    "FrameReader",
    "Gap",
    "Gateway",
    "GatewaySettings",
    "Grant",
    "HistoryPolicy",
    "Hub",
    "InProcess",
    "Limit",
    "LiveClient",
    "LocalFanOut",
    "Machine",
    "MaySubscribe",
    "Missed",
    "Offset",
    "Opcode",
    "Patience",
    "Pauses",
    "ProtocolError",
    "Published",
    "Publisher",
    "RedisFanOut",
    "Shown",
    "Slow",
    "Subscription",
    "Token",
    "Told",
    "Upgrade",
    "Worker",
    "WorkerSettings",
    "browser_client",
    "encode_frame",
    "hold_port",
    "jwt_authenticate",
    "limits",
    "read_close",
    "read_machine",
    "run_workers",
    "service_calls",
]
