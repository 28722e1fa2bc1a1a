"""A watch that goes on: over whichever endpoint answers, from where it stands.

A stream breaks with a word when a process dies. It breaks without one when a process or a machine freezes: then nothing
comes and nothing ends. So a silent watch asks for a sign of life and moves on when there is none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from dougong.errors import Unavailable
from dougong.registry._protocol import Change
from dougong.registry.etcd.cluster import Cluster
from dougong.registry.etcd.endpoints import Stream
from dougong.registry.etcd.failures import Failed, Next
from dougong.registry.etcd.messages import progress_request, range_end, read_watch, watch_request
from dougong.registry.etcd.position import Position, Reopen
from dougong.registry.keys import check_from_revision

_PATH = "/etcdserverpb.Watch/Watch"
_SILENCES_MAX = 3
_PAUSE_S_MIN = 0.02
_PAUSE_S_MAX = 0.5
_LOGINS_MAX = 2


async def follow(cluster: Cluster, prefix: bytes, position: Position) -> AsyncIterator[Sequence[Change]]:
    """Changes under `prefix`, a group per revision, until the cluster is closed. Raises `Compacted`, `Unavailable`."""
    check_from_revision(position.following)
    cluster.check_open()
    start, end = range_end(prefix)
    loop = asyncio.get_running_loop()
    heard_at = loop.time()
    pause_s = _PAUSE_S_MIN
    logins = 0
    while not cluster.closed():
        token = cluster.token
        stream: Stream | None = None
        try:
            request = watch_request(start, end, position.open(cluster.revision))
            stream = await cluster.stream(_PATH, request)
            while True:
                reply = read_watch(await _heard(stream, cluster.settings.silence_s))
                cluster.note(reply)  # first: who has to open again has to know why
                groups = position.feed(reply)
                pause_s, logins = _PAUSE_S_MIN, 0
                for group in groups:
                    yield group
                heard_at = loop.time()
        except Reopen:
            continue
        except Failed as failed:
            if cluster.closed():
                break
            if stream is not None:
                cluster.avoid(stream.address)
            # etcd 3.4 says of a token that ran out what it says of a user without the right.
            if failed.next is not Next.ELSEWHERE:
                if not cluster.settings.user or logins == _LOGINS_MAX or not failed.about_rights:
                    raise failed.error() from None
                logins += 1
                await _log_in(cluster, token)
                continue
            if loop.time() - heard_at > cluster.settings.timeout_s:
                raise failed.error() from None
        except Unavailable as error:
            if error.code == "closed":
                break
            raise
        finally:
            if stream is not None:
                await stream.close()
        await asyncio.sleep(pause_s * cluster.random.uniform(0.5, 1.0))
        pause_s = min(_PAUSE_S_MAX, pause_s * 2)


async def _log_in(cluster: Cluster, refused: str) -> None:
    try:
        await cluster.login(refused)
    except Failed as failed:
        raise failed.error() from None


async def _heard(stream: Stream, silence_s: float) -> bytes:
    for _ in range(_SILENCES_MAX):
        data = await stream.receive(silence_s)
        if data is not None:
            return data
        await stream.send(progress_request())
    raise Failed("DEADLINE_EXCEEDED", "the watch is silent", stream.address)
