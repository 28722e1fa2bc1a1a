"""What gRPC left behind does not keep a child from becoming the program it is to be."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import asyncio, gc, os, sys, threading
import grpc.aio, uvloop

GUARDED = sys.argv[1] == "guarded"
STUCK = 77
if GUARDED:
    import dougong.rpc

def collect() -> None:
    # What a child does between fork and exec: it allocates, and with that the garbage collector comes by.
    gc.set_threshold(1)
    held = [[] for _ in range(100)]

def stuck(*_: object, **__: object) -> None:
    os._exit(STUCK)

async def main() -> None:
    gc.collect()
    gc.set_threshold(1_000_000)
    channel = grpc.aio.insecure_channel("127.0.0.1:1")
    ring = [channel]
    ring.append(ring)
    del channel, ring  # the last one there is, and garbage
    parent = os.getpid()
    join = threading.Thread.join
    threading.Thread.join = lambda *a, **k: join(*a, **k) if os.getpid() == parent else stuck()
    os.register_at_fork(after_in_child=collect)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print('ran')", stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert gc.isenabled()
    gc.collect()
    print(out.decode().strip(), process.returncode)

uvloop.run(main())
"""


def run(how: str) -> str:
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_child_runs_though_a_channel_was_garbage_when_it_was_forked() -> None:
    assert run("guarded") == "ran 0"


def test_without_the_guard_the_child_waits_for_a_thread_it_does_not_have() -> None:
    assert run("unguarded") == "77"
