"""The libraries: how the workers of each are started, and how one sees that nothing is left to be done."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from dougong.evidence import NotShown
from dougong.evidence import Redis as RedisServer

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["SYSTEMS", "URL", "JobName", "OnRedis", "Sync", "System", "empty", "environment_of", "redis_server"]

JobName = Literal["nothing", "pause", "effect", "busy", "uneven"]
"""Returns at once; waits for a millisecond, as for a disk or a network; writes a row, waits for 50 ms and says when it
ends (both ours only); returns at once, but one of many takes long (on Kafka only)."""
Sync = Literal["always", "everysec"]
URL = "SHOP_PROOF_URL"
"""The variable that says to everybody where the Redis is."""
_HERE = "shop.proof.jobs"
_INSTALL_S = 300.0


class System(msgspec.Struct, frozen=True):
    """One library. Its module `NAME_jobs` has the jobs, and `put`."""

    name: str
    packages: tuple[str, ...]
    """Modules to be found; empty where it has a folder of its own."""
    nothing: tuple[str, ...]
    """`python -m …` for jobs that do nothing."""
    pause: tuple[str, ...]
    """The same for jobs that wait."""
    left: Callable[[Redis], Awaitable[int]]
    """How many jobs nobody has acknowledged as done."""

    def command(self, job: JobName) -> Sequence[str]:
        return (sys.executable, "-m", *(self.nothing if job == "nothing" else self.pause))


async def _celery(redis: Redis) -> int:
    return int(await redis.llen("celery")) + int(await redis.hlen("unacked"))


async def _dramatiq(redis: Redis) -> int:
    return int(await redis.hlen("dramatiq:default.msgs"))


async def _arq(redis: Redis) -> int:
    return int(await redis.zcard("arq:queue"))


async def _taskiq(redis: Redis) -> int:
    (group,) = await redis.xinfo_groups("taskiq")
    return int(group["pending"]) + int(group["lag"] or 0)


async def _huey(redis: Redis) -> int:
    return int(await redis.llen("huey.redis.proof"))


def _dramatiq_command(threads: int) -> tuple[str, ...]:
    return ("dramatiq", f"{_HERE}.dramatiq_jobs", "--processes", "2", "--threads", str(threads), "--skip-logging")


def _celery_command(*pool: str) -> tuple[str, ...]:
    return (
        "celery", "--quiet", "--app", f"{_HERE}.celery_jobs", "worker", "--loglevel", "ERROR", *pool,
        "--without-gossip", "--without-mingle", "--without-heartbeat",
    )  # fmt: skip


class OnRedis:
    """A library on an empty Redis."""

    def __init__(self, system: System, server: RedisServer, folder: Path) -> None:
        self.name, self.command = system.name, system.command
        self.environment = {**environment_of(system, folder), URL: server.url()}
        self._left = system.left
        self._url = server.url()

    async def left(self) -> int:
        from redis.asyncio import Redis

        async with Redis.from_url(self._url) as redis:
            return await self._left(redis)


@contextmanager
def redis_server(folder: Path) -> Generator[RedisServer]:
    """A Redis that writes down what it is told (`sync` says when), and never stops to write it down anew."""
    folder.mkdir(parents=True)
    server = RedisServer(
        folder,
        buffer_mb=1024,
        options=("--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"),
    )
    try:
        yield server
    finally:
        server.remove()


async def empty(server: RedisServer, sync: Sync) -> None:
    """Nothing in it, and from now on that durable: `always` answers once it is on the disk."""
    from redis.asyncio import Redis

    async with Redis.from_url(server.url()) as redis:
        await redis.config_set("appendfsync", sync)
        await redis.flushall()


_TASKIQ = (
    "taskiq", "worker", f"{_HERE}.taskiq_jobs:broker", "--workers", "2", "--max-async-tasks", "100",
    "--ack-type", "when_executed", "--log-level", "ERROR",
)  # fmt: skip
_ARQ = ("arq", f"{_HERE}.arq_jobs.WorkerSettings")

SYSTEMS = {
    system.name: system
    for system in (
        System(
            "celery",
            ("celery", "redis"),
            _celery_command("--pool", "prefork", "--concurrency", "2"),
            _celery_command("--pool", "threads", "--concurrency", "32"),
            _celery,
        ),
        System("dramatiq", ("dramatiq", "redis"), _dramatiq_command(8), _dramatiq_command(16), _dramatiq),
        System("arq", (), _ARQ, _ARQ, _arq),
        System("taskiq", ("taskiq", "taskiq_redis"), _TASKIQ, _TASKIQ, _taskiq),
        System(
            "huey",
            ("huey", "redis"),
            ("huey.bin.huey_consumer", f"{_HERE}.huey_jobs.huey", "-k", "process", "-w", "2", "-n", "-q"),
            ("huey.bin.huey_consumer", f"{_HERE}.huey_jobs.huey", "-k", "thread", "-w", "32", "-n", "-q"),
            _huey,
        ),
    )
}


def environment_of(system: System, folder: Path) -> dict[str, str]:
    """What its processes need beside ours. `NotShown` where it is not installed.

    arq wants a redis-py that is older than what everything else needs: it gets a folder with its own, from hashed
    pins, which goes before what is installed.
    """
    if system.packages:
        missing = [package for package in system.packages if importlib.util.find_spec(package) is None]
        if missing:
            raise NotShown(f"{missing[0]} is missing; pip install 'dougong[prove]'")
        return {}
    apart = folder / f"{system.name}-packages"
    if not apart.exists():
        pins = Path(__file__).parent / f"{system.name}.lock"
        done = subprocess.run(  # noqa: S603 (ourselves)
            [
                sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
                "--require-hashes", "--target", str(apart), "--requirement", str(pins),
            ],
            capture_output=True, text=True, check=False, timeout=_INSTALL_S,
        )  # fmt: skip
        if done.returncode != 0:
            raise NotShown(f"{system.name} cannot be installed: {done.stderr.strip()[-200:]}")
    return {"PYTHONPATH": os.pathsep.join([str(apart), *filter(None, [os.environ.get("PYTHONPATH")])])}
