"""`python -m dougong.evidence`: a generator in a process of its own, see `apart`."""

from __future__ import annotations

import gc
import sys

import uvloop

from dougong.evidence.apart import serve_one_rush

if __name__ == "__main__":
    # The journal grows for as long as the rush lasts and has no cycles: full collections would only walk it, and show
    # as latency of the system under load.
    gc.freeze()
    gc.set_threshold(50_000, 20, 1000)
    sys.stdout.buffer.write(uvloop.run(serve_one_rush(sys.stdin.buffer.read())) + b"\n")
