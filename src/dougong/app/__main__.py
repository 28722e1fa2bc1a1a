"""`python -m dougong.app shop.orders:app`: what a supervisor or a container starts. Settings come from `DOUGONG_…`."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress

import uvloop

from dougong.app._app import load_app
from dougong.app._restart import EXIT_HOPELESS
from dougong.app._run import run_apps
from dougong.app._settings import load_run_settings
from dougong.errors import Error, Invalid, NotFound, Unavailable
from dougong.telemetry import configure_logging, get_logger

log = get_logger(__name__)

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of glibc's mallopt(3)


def main(targets: list[str]) -> int:
    """Run the named apps until SIGTERM or SIGINT; 0 when they stopped in order, `EXIT_HOPELESS` when a setting or a
    declaration is wrong, 1 when anything else ended them."""
    _spare_memory()
    try:
        settings = load_run_settings()
        configure_logging("+".join(targets), json=settings.log_json, level=settings.log_level)
        _die_with(settings.supervisor)
        apps = [load_app(target) for target in targets]
        uvloop.run(run_apps(apps, settings))
    except (Invalid, NotFound) as error:
        log.error(str(error))
        return EXIT_HOPELESS
    except Error as error:
        log.error(str(error))
        return 1
    except Exception:
        log.exception("ended by a fault")
        return 1
    return 0


def _die_with(supervisor: int) -> None:
    """Stop when the supervisor is gone, however it went (Linux; elsewhere only an orderly stop is passed on)."""
    if supervisor and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1 = PR_SET_PDEATHSIG
        if os.getppid() != supervisor:  # it went before we asked
            raise Unavailable(f"the supervisor, process {supervisor}, is gone", code="no_supervisor")


def _spare_memory() -> None:
    """Have glibc give blocks of 1 MiB and more back when freed. By itself it learns to keep them: after one argon2 hash
    each of its threads would hold 19 MiB for good. And have it keep one heap for the loop and one for other threads,
    of which most work for moments: by itself it makes eight for each core."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # a C library without mallopt
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_MMAP_THRESHOLD, 1 << 20)
            libc.mallopt(_M_ARENA_MAX, 2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
