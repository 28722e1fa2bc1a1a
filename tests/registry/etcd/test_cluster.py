"""Which endpoint is asked when, and for how long: against endpoints of our own."""

from __future__ import annotations

import asyncio
import random

import pytest

from dougong.errors import Overloaded, Unavailable
from dougong.registry.etcd import cluster as cluster_module
from dougong.registry.etcd.cluster import Cluster
from dougong.registry.etcd.endpoints import Endpoint
from dougong.registry.etcd.failures import Failed
from dougong.registry.etcd.messages import read_header, read_range, read_write
from dougong.registry.etcd.settings import EtcdSettings

OK = b"\x0a\x04\x08\x09\x18\x07"  # cluster 9, revision 7


class Asked:
    """Endpoints that need `takes_s[address]` to answer; None refuses connections."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, takes_s: dict[str, float | None]) -> None:
        self.takes_s = takes_s
        self.attempts: list[tuple[str, float]] = []
        asked = self

        async def unary(self: Endpoint, path: str, request: bytes, token: str, timeout_s: float) -> bytes:
            asked.attempts.append((self.address, round(timeout_s, 3)))
            takes_s = asked.takes_s[self.address]
            if takes_s is None:
                raise Failed("UNAVAILABLE", "connection refused", self.address, sent=False)
            await asyncio.sleep(min(takes_s, timeout_s))
            if takes_s > timeout_s:
                raise Failed("DEADLINE_EXCEEDED", "", self.address)
            return OK

        monkeypatch.setattr(Endpoint, "unary", unary)


class First(random.Random):
    def randrange(self, *_: object) -> int:
        return 0


def make(timeout_s: float) -> Cluster:
    return Cluster(EtcdSettings(endpoints=("a:1", "b:1", "c:1"), attempt_s=0.01, timeout_s=timeout_s), First())


@pytest.fixture
def cluster() -> Cluster:
    return make(60)


async def test_the_endpoint_that_answered_is_asked_first(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch, {"a:1": None, "b:1": 9.0, "c:1": 0.0})
    for _ in range(3):
        await cluster.call("/x", read_header, b"")
    assert [address for address, _ in asked.attempts] == ["a:1", "b:1", "c:1", "c:1", "c:1"]
    assert (cluster.id, cluster.revision) == (9, 7)


async def test_a_slow_cluster_gets_to_answer(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch, dict.fromkeys(("a:1", "b:1", "c:1"), 0.03))
    answer = await cluster.call("/x", read_header, b"")
    assert answer.again
    assert [timeout_s for _, timeout_s in asked.attempts] == [0.01] * 6 + [0.02] * 3 + [0.04]


async def test_it_says_whether_an_earlier_attempt_may_have_been_carried_out(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(monkeypatch, {"a:1": None, "b:1": 0.0, "c:1": 9.0})
    assert not (await cluster.call("/x", read_header, b"")).again  # refused: it was never sent
    asked.takes_s = {"a:1": 0.0, "b:1": 9.0, "c:1": None}
    assert (await cluster.call("/x", read_header, b"")).again


@pytest.mark.parametrize(("takes_s", "outcome"), [(None, "not_done"), (9.0, "unknown")])
async def test_it_says_whether_a_write_may_have_happened(
    monkeypatch: pytest.MonkeyPatch, takes_s: float | None, outcome: str
) -> None:
    Asked(monkeypatch, dict.fromkeys(("a:1", "b:1", "c:1"), takes_s))
    with pytest.raises(Unavailable, match="registry_unreachable") as raised:
        await make(0.2).call("/x", read_header, b"")
    assert raised.value.fields["outcome"] == outcome


async def test_calls_are_bounded(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "CALLS_MAX", 2)
    Asked(monkeypatch, dict.fromkeys(("a:1", "b:1", "c:1"), 9.0))
    waiting = [asyncio.ensure_future(cluster.call("/x", read_header, b"")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="registry_busy"):
        await cluster.call("/x", read_header, b"")
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_who_answers_but_is_no_etcd_is_passed_over(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unary(self: Endpoint, path: str, request: bytes, token: str, timeout_s: float) -> bytes:
        return b"\xff" if self.address == "a:1" else OK

    monkeypatch.setattr(Endpoint, "unary", unary)
    assert (await cluster.call("/x", read_header, b"")).again, "what it did with a write nobody knows"
    with pytest.raises(Failed, match="none of etcd's"):
        read_range(b"\x18\x01")  # more is to come, behind nothing
    with pytest.raises(Failed, match="none of etcd's"):
        read_write(b"")


async def test_a_cluster_may_be_away_for_long(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch, dict.fromkeys(("a:1", "b:1", "c:1")))
    monkeypatch.setattr(cluster_module, "_PAUSE_S_MAX", 0.0)
    calling = asyncio.ensure_future(cluster.call("/x", read_header, b""))
    while len(asked.attempts) < 3 * 1_100 and not calling.done():  # more rounds than a float has doublings
        await asyncio.sleep(0)
    asked.takes_s["b:1"] = 0.0
    assert (await calling).reply.revision == 7
