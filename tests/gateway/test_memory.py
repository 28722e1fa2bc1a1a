"""What an idle session costs: the number that decides how many there can be."""

from __future__ import annotations

import subprocess
import sys

BYTES_MAX = 1000
SCRIPT = r"""
import asyncio, gc, socket
from dougong.gateway import Gateway, Grant
from dougong.gateway.memory import resident_bytes
HEAD = (b"GET /live?user=%d HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")

async def authenticate(upgrade):
    user = upgrade.query["user"]
    return Grant(user=user, topics=("user:" + user,))

async def sessions(gateway, port, numbers):
    held = []
    for number in numbers:
        one = socket.create_connection(("127.0.0.1", port))
        one.send(HEAD % number)
        held.append(one)
        if number % 50 == 0:
            await asyncio.sleep(0)
    while sum(shown.state == "open" for shown in gateway.connections(limit=10**6)) < numbers.stop:
        await asyncio.sleep(0.01)
    return held

def settled():
    gc.collect()
    return resident_bytes()

async def main():
    gateway = Gateway(authenticate)
    port = await gateway.start()
    first = await sessions(gateway, port, range(200))  # what is made once is made
    before = settled()
    bare = [socket.socket() for _ in range(2000)]
    sockets = settled() - before  # the clients' side stands in this process, too
    for one in bare:
        one.close()
    before = settled()
    second = await sessions(gateway, port, range(200, 2200))
    print((settled() - before - sockets) // 2000)
    for one in gateway._roster:  # ablation: each keeps a buffer
        one._rest = bytes(1500)
    print((settled() - before - sockets) // 2000)
    await gateway.stop()

asyncio.run(main())
"""


def test_a_session_costs_less_than_a_kilobyte_and_a_buffer_each_would_be_noticed() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    ours, with_buffers = map(int, done.stdout.split())
    assert 0 < ours < BYTES_MAX <= with_buffers


def test_a_gateway_without_calls_loads_no_grpc() -> None:
    code = "import sys, dougong.gateway; print('grpc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
