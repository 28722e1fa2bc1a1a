"""`python -m dougong.app shop.orders:app`: what a supervisor or a container starts. Settings come from `DOUGONG_…`."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress

import uvloop

from dougong.app._app import load_app
from dougong.app._run import run_apps
from dougong.app._settings import load_run_settings
from dougong.errors import Error


def main(targets: list[str]) -> int:
    """Run the named apps until SIGTERM or SIGINT; 0 when they stopped in order."""
    _die_with_parent()
    _return_large_blocks()
    try:
        settings = load_run_settings()
        apps = [load_app(target) for target in targets]
        uvloop.run(run_apps(apps, settings))
    except Error as error:
        print(f"dougong: {error}", file=sys.stderr)  # noqa: T201 (the process's last word)
        return 1
    return 0


def _die_with_parent() -> None:
    """Under a supervisor: stop when it is gone, however it went (Linux; elsewhere only an orderly stop is passed on)."""
    if sys.platform == "linux" and "DOUGONG_SYSTEM" in os.environ:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1 = PR_SET_PDEATHSIG


def _return_large_blocks() -> None:
    """Have glibc give blocks of 1 MiB and more back when freed. By itself it learns to keep them: after one argon2 hash
    each of its threads would hold 19 MiB for good."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # a C library without mallopt
            ctypes.CDLL(None).mallopt(-3, 1 << 20)  # -3 = M_MMAP_THRESHOLD


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
