"""Real database servers for tests, in memory where there is room.

Each pytest worker starts an engine when its first test needs it and keeps it for the session; a test gets a database of
its own on it, by URL. An engine that is not installed skips the test (in CI a skip is a failure).
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from dougong.evidence import NotShown
from dougong.evidence.engines import SERVERS, Server, free_port

__all__ = ["DIALECTS", "database_url", "free_port", "make_server", "server", "stop_all"]

DIALECTS = ("sqlite", *SERVERS)

_running: dict[str, Server] = {}
_files = itertools.count(1)


def server(dialect: str) -> Server:
    """This worker's server; started when first asked for, stopped when the session ends (see the root conftest)."""
    if dialect not in _running:
        _running[dialect] = make_server(dialect)
    return _running[dialect]


def make_server(dialect: str) -> Server:
    """A server of the caller's own, to be removed by it."""
    try:
        return SERVERS[dialect](Path(tempfile.mkdtemp(prefix=f"dougong-{dialect}-", dir=_memory())))
    except NotShown as missing:
        pytest.skip(missing.message)


@contextlib.contextmanager
def database_url(dialect: str, folder: Path) -> Generator[str]:
    """A fresh database on any engine."""
    if dialect == "sqlite":
        yield f"sqlite:///{folder}/{next(_files)}.db"
        return
    with server(dialect).database() as url:
        yield url


def stop_all() -> None:
    """End this worker's servers."""
    while _running:
        _running.popitem()[1].remove()


def _memory() -> str | None:
    """Servers sync all the time: where there is room in memory, that costs nothing. A killed process loses nothing."""
    shared = Path("/dev/shm")
    roomy = shared.is_dir() and shutil.disk_usage(shared).free > 4 << 30
    return str(shared) if roomy else None
