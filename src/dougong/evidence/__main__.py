"""`python -m dougong.evidence`: generators in a process of their own, see `apart`."""

from __future__ import annotations

import sys

from dougong.evidence.apart import serve_rushes

if __name__ == "__main__":
    serve_rushes(sys.stdin.buffer, sys.stdout.buffer)
