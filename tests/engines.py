"""Real servers for tests, in memory where there is room.

Each pytest worker starts an engine when its first test needs it and keeps it for the session; a test gets a database of
its own on it, by URL. An engine that is not installed skips the test (in CI a skip is a failure).
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from dougong.evidence import NotShown
from dougong.evidence.engines import SERVERS, Redis, Server, free_port
from dougong.evidence.etcd_cluster import EtcdCluster, EtcdFiles
from dougong.evidence.kafka_broker import KafkaBroker
from dougong.evidence.network import Network
from dougong.evidence.slow_disk import slow_syncs

__all__ = [
    "DIALECTS",
    "can_cut_networks",
    "can_slow_disks",
    "database_url",
    "etcd",
    "free_port",
    "kafka",
    "make_etcd",
    "make_kafka",
    "make_network",
    "make_redis",
    "make_server",
    "redis",
    "server",
    "slow_disk",
    "stop_all",
]

DIALECTS = ("sqlite", *SERVERS)

_running: dict[str, Server] = {}
_redis: list[Redis] = []
_etcd: list[EtcdCluster] = []
_kafka: list[KafkaBroker] = []
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


def redis() -> Redis:
    """This worker's Redis, likewise; who uses it has keys of their own."""
    if not _redis:
        _redis.append(make_redis())
    return _redis[0]


def make_redis(*, buffer_mb: int = 32, options: Sequence[str] = ()) -> Redis:
    """A Redis of the caller's own, to be removed by it."""
    folder = Path(tempfile.mkdtemp(prefix="dougong-redis-"))
    try:
        return Redis(folder, buffer_mb=buffer_mb, options=options)
    except NotShown as missing:
        folder.rmdir()
        pytest.skip(missing.message)


def etcd() -> EtcdCluster:
    """This worker's etcd of three members, likewise. It elects twice as fast as by default, so that tests wait less."""
    if not _etcd:
        _etcd.append(make_etcd())
    return _etcd[0]


def make_etcd(
    *,
    members: int = 3,
    heartbeat_ms: int = 50,
    election_ms: int = 500,
    tls: EtcdFiles | None = None,
    options: Sequence[str] = (),
    network: Network | None = None,
) -> EtcdCluster:
    """An etcd of the caller's own, to be removed by it."""
    folder = Path(tempfile.mkdtemp(prefix="dougong-etcd-", dir=_memory()))
    try:
        return EtcdCluster(
            folder,
            members=members,
            heartbeat_ms=heartbeat_ms,
            election_ms=election_ms,
            tls=tls,
            options=options,
            network=network,
        )
    except NotShown as missing:
        folder.rmdir()
        pytest.skip(missing.message)


def kafka() -> KafkaBroker:
    """This worker's Kafka, likewise; who uses it has topics and groups of its own."""
    if not _kafka:
        _kafka.append(make_kafka())
    return _kafka[0]


def make_kafka() -> KafkaBroker:
    """A Kafka of the caller's own, to be removed by it."""
    folder = Path(tempfile.mkdtemp(prefix="dougong-kafka-", dir=_memory()))
    try:
        return KafkaBroker(folder)
    except NotShown as missing:
        folder.rmdir()
        pytest.skip(missing.message)


def make_network(hosts: int) -> Network:
    """A network of the caller's own, to be removed by it."""
    try:
        return Network(hosts)
    except NotShown as missing:
        pytest.skip(missing.message)


@contextlib.contextmanager
def slow_disk(pids: Sequence[int], seconds: float) -> Generator[None]:
    """Syncs of these processes take longer."""
    try:
        with slow_syncs(pids, seconds):
            yield
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
    while _redis:
        _redis.pop().remove()
    while _etcd:
        _etcd.pop().remove()
    while _kafka:
        _kafka.pop().remove()


def _memory() -> str | None:
    """Servers sync all the time: where there is room in memory, that costs nothing. A killed process loses nothing."""
    shared = Path("/dev/shm")
    roomy = shared.is_dir() and shutil.disk_usage(shared).free > 4 << 30
    return str(shared) if roomy else None


def can_cut_networks() -> bool:
    """Whether this machine lets us make network namespaces: not every container does."""
    try:
        Network(1).remove()
    except (NotShown, RuntimeError, OSError):
        return False
    return True


def can_slow_disks() -> bool:
    """Whether processes may be traced here."""
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as idle:
        try:
            with slow_syncs([idle.pid], 0.01):
                return True
        except (NotShown, RuntimeError, OSError):
            return False
        finally:
            idle.kill()
