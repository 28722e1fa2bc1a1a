"""A real cluster whose disks are slow to sync.

etcd answers a write when most members have synced it. So what a client meets is an answer that takes longer than its
patience: the write is done all the same, and asked for again. Each sync takes longer, and nothing else does; a member
that is stopped for most of the time would be another fault, of a machine that hangs (see test_faults.py).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator

import pytest
from tests import engines
from tests.registry.etcd.conftest import Connect

from dougong.errors import Conflict, Unavailable
from dougong.evidence.etcd_cluster import EtcdCluster
from dougong.registry import Change, ChangeKind
from dougong.registry.etcd import registry as registry_module
from dougong.registry.etcd.endpoints import Endpoint
from dougong.registry.etcd.failures import Failed

pytestmark = pytest.mark.xdist_group("etcd")


@contextlib.contextmanager
def slow(cluster: EtcdCluster, seconds: float) -> Generator[None]:
    """All members: an election would only find another slow disk."""
    with engines.slow_disk([member.pid for member in cluster.members], seconds):
        yield
    for member in cluster.members:
        member.wait()


@pytest.fixture
def unheard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Requests that were given up for the next attempt."""
    real = Endpoint.unary
    paths: list[str] = []

    async def unary(self: Endpoint, path: str, request: bytes, token: str, timeout_s: float) -> bytes:
        try:
            return await real(self, path, request, token, timeout_s)
        except Failed as failed:
            if failed.unknown:
                paths.append(path.rpartition("/")[2])
            raise

    monkeypatch.setattr(Endpoint, "unary", unary)
    return paths


async def test_what_is_asked_twice_is_done_once(
    cluster: EtcdCluster, connect: Connect, unheard: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"timeout_s": 60, "attempt_s": 0.03}
    registry, watching = await connect(**options), await connect(**options)
    since = await registry.put("/old", b"") + 1
    watch = watching.watch("/", since)
    with slow(cluster, 0.06):
        lease = await registry.grant(60)
        created = await registry.create("/a", b"", lease=lease.id)
        put = await registry.put("/a", b"1", lease=lease.id)
        assert await registry.delete("/old") is True
        end = await registry.put("/end", b"", lease=lease.id)
        assert {"LeaseGrant", "Txn"} <= set(unheard)
        # The ablation: who does not look at what he finds is told that his own key is in the way.
        with monkeypatch.context() as without:
            without.setattr(registry_module, "_same", lambda *_, **__: False)
            with pytest.raises(Conflict, match="key_exists"):
                await registry.create("/b", b"", lease=lease.id)
    async with asyncio.timeout(60):
        seen = [await anext(watch) for _ in range(4)]
    assert seen == [
        (Change(ChangeKind.PUT, "/a", created, b""),),
        (Change(ChangeKind.PUT, "/a", put, b"1"),),
        (Change(ChangeKind.DELETE, "/old", put + 1, b""),),
        (Change(ChangeKind.PUT, "/end", end, b""),),
    ]
    assert [change.revision for (change,) in seen] == list(range(created, end + 1))
    await registry.revoke(lease.id)


async def test_slower_than_calls_may_take_nothing_is_told_wrongly(cluster: EtcdCluster, connect: Connect) -> None:
    """Slower than an election timeout as well. A write is confirmed, or said to be unknown; and watches keep order."""
    writers = [await connect(timeout_s=0.8) for _ in range(4)]
    watching = await connect(timeout_s=60)
    since = await writers[0].put("/begin", b"") + 1
    watch = watching.watch("/", since)
    confirmed: dict[int, bytes] = {}
    failed: dict[bytes, str] = {}

    async def write(number: int) -> None:
        for count in range(4):
            value = b"%d-%d" % (number, count)
            try:
                async with asyncio.timeout(60):
                    confirmed[await writers[number].put(f"/{number}", value)] = value
            except Unavailable as error:
                failed[value] = str(error.fields.get("outcome", error.code))

    with slow(cluster, 0.7):
        await asyncio.gather(*map(write, range(len(writers))))
    end = await watching.put("/end", b"")
    changes: list[Change] = []
    async with asyncio.timeout(60):
        while not changes or changes[-1].revision < end:
            changes += await anext(watch)
    unknown = {value for value, outcome in failed.items() if outcome in ("unknown", "outcome_unknown")}
    assert unknown  # else the disks were not slow enough to tell
    assert set(failed.values()) <= {"unknown", "outcome_unknown", "not_done"}  # this by a machine that is busy as well
    told = {change.revision: change.value for change in changes[:-1]}
    assert [change.revision for change in changes] == list(range(since, end + 1))
    assert confirmed.items() <= told.items()
    assert set(told.values()) <= {*confirmed.values(), *unknown}
    assert len(set(told.values())) == len(told)  # nothing was done twice
    table = {change.key: change.value for change in changes}
    assert {item.key: item.value for item in (await watching.list("/")).items} == {**table, "/begin": b""}
