"""A real cluster of three whose members are machines to each other: cut off, connections stay and nothing arrives.

`network.here` is where the tests and all their registries are.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator

import pytest
from tests import engines
from tests.registry.etcd.conftest import Connect

from dougong.errors import Unavailable
from dougong.evidence.etcd_cluster import EtcdCluster, EtcdMember
from dougong.evidence.network import Network
from dougong.registry import Change, ChangeKind, Discovery, Instance, Registration
from dougong.registry.etcd import EtcdRegistry, EtcdSettings, messages
from dougong.registry.etcd import endpoints as endpoints_module

pytestmark = pytest.mark.xdist_group("etcd-network")

SERVICE = "shop.v1.Orders"


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    made = engines.make_network(3)
    yield made
    made.remove()


@pytest.fixture(scope="module")
def cluster(network: Network) -> Iterator[EtcdCluster]:
    """In place of the one on loopback."""
    made = engines.make_etcd(network=network)
    yield made
    made.remove()


@pytest.fixture
def leader(cluster: EtcdCluster) -> EtcdMember:
    return cluster.leader()


@pytest.fixture(autouse=True)
def _healed(network: Network, cluster: EtcdCluster) -> Iterator[None]:
    yield
    network.heal()
    cluster.heal()


def others(cluster: EtcdCluster, member: EtcdMember) -> list[EtcdMember]:
    return [other for other in cluster.members if other is not member]


def cut_off(network: Network, cluster: EtcdCluster, member: EtcdMember) -> None:
    """The member from the other members; we reach all."""
    network.cut(member.host, *(other.host for other in others(cluster, member)))


async def patiently_put(registry: EtcdRegistry, key: str, value: bytes) -> int:
    while True:
        try:
            return await registry.put(key, value)
        except Unavailable:
            continue


async def alone_at(member: EtcdMember, namespace: str, **options: float) -> EtcdRegistry:
    """A registry that knows no other endpoint; not opened, since that may be impossible."""
    query = "&".join(f"{name}={value}" for name, value in {"namespace": namespace, **options}.items())
    return EtcdRegistry(EtcdSettings.parse(f"etcd://{member.address}?{query}"))


class Log:
    """What a watch was told, for ever."""

    def __init__(self, registry: EtcdRegistry, prefix: str, since: int) -> None:
        self.changes: list[Change] = []
        self._news = asyncio.Event()
        self._task = asyncio.ensure_future(self._follow(registry, prefix, since))

    async def _follow(self, registry: EtcdRegistry, prefix: str, since: int) -> None:
        try:
            async for changes in registry.watch(prefix, since):
                self.changes += changes
                self._news.set()
        finally:
            self._news.set()

    async def until(self, key: str) -> list[int]:
        """Revisions, once the log tells of `key`."""
        async with asyncio.timeout(60):
            while not any(change.key == key for change in self.changes):
                self._news.clear()
                await asyncio.wait(
                    {self._task, told := asyncio.ensure_future(self._news.wait())}, return_when="FIRST_COMPLETED"
                )
                told.cancel()
                if self._task.done():
                    self._task.result()
        return [change.revision for change in self.changes]

    def table(self) -> dict[str, bytes]:
        """What a client that believes the log has."""
        table: dict[str, bytes] = {}
        for change in self.changes:
            if change.kind is ChangeKind.PUT:
                table[change.key] = change.value
            else:
                table.pop(change.key, None)
        return table

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.mark.parametrize("leads", [True, False], ids=["leader", "follower"])
async def test_all_move_to_the_majority(
    network: Network, cluster: EtcdCluster, connect: Connect, leader: EtcdMember, leads: bool
) -> None:
    """Everybody stands on the member that is cut off. Each change is seen once, and no instance is ever missed."""
    member = leader if leads else others(cluster, leader)[0]
    watching, serving, looking = [await connect(member) for _ in range(3)]
    writing = await connect(member, timeout_s=60)
    registration = Registration(serving, [Instance(service=SERVICE, address="127.0.0.1:1")], ttl_s=4)
    await registration.start()
    await registration.wait(60)
    discovery = Discovery(looking)
    orders = await discovery.resolve(SERVICE)
    await orders.wait_ready(60)
    since = (await watching.list("/")).revision + 1
    log, leases = Log(watching, "/a", since), Log(await connect(member), "/services/", since)
    expected = [await writing.put("/a", b"before")]
    cut_off(network, cluster, member)
    expected += [await writing.put(key, b"") for key in ["/a"] * 5 + ["/a/end"]]
    assert await log.until("/a/end") == expected
    assert not member.leads()
    await asyncio.sleep(4.5)  # longer than the lease lives by itself: it is renewed at the majority
    network.heal()
    expected.append(await writing.put("/a/healed", b""))
    assert await log.until("/a/healed") == expected
    assert (registration.grants, registration.registered) == (1, True)
    assert leases.changes == []
    assert len(orders.instances()) == 1
    await asyncio.gather(registration.stop(), discovery.close(), log.close(), leases.close())


async def test_what_the_minority_remembers_is_never_taken_for_the_truth(
    network: Network, cluster: EtcdCluster, connect: Connect, leader: EtcdMember, namespace: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The ablations: read as etcd offers it, or not told that a leader is needed, it answers with what it remembers."""
    registry = await connect(timeout_s=60)
    since = await registry.put("/a", b"old") + 1
    minority = await alone_at(leader, namespace, timeout_s=3, silence_s=0.2)
    await minority.open()
    monkeypatch.setattr(endpoints_module, "_metadata", lambda _: ())
    trusting = await alone_at(leader, namespace, timeout_s=3, silence_s=0.2)
    trusted = Log(trusting, "/", since)
    await trusting.put("/begin", b"")
    await trusted.until("/begin")
    monkeypatch.undo()
    log = Log(minority, "/", since)
    await log.until("/begin")

    async def ask(registry: EtcdRegistry) -> list[bytes]:
        """For what the member has, new or not: `serializable`, field 7 of etcd's RangeRequest."""
        request = messages.range_request(f"{namespace}/a".encode()) + b"\x38\x01"
        answer = await registry._cluster.call("/etcdserverpb.KV/Range", messages.read_range, request)
        return [item.value for item in answer.reply.items]

    cut_off(network, cluster, leader)
    await registry.put("/a", b"new")
    await asyncio.to_thread(until_it_knows, leader)
    calls = (minority.list("/"), minority.put("/b", b""), minority.delete("/a"), minority.keep_alive(1), ask(minority))
    for answer in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(answer, Unavailable)
        assert answer.code == "registry_unreachable"
    with pytest.raises(Unavailable, match="registry_unreachable"):
        await log.until("/never")

    monkeypatch.setattr(endpoints_module, "_metadata", lambda _: ())
    assert await ask(trusting) == [b"old"]
    assert "/a" not in trusted.table()
    assert not trusted._task.done()  # and waits for ever
    monkeypatch.undo()
    for each in (log, trusted, minority, trusting):
        await each.close()


def until_it_knows(member: EtcdMember) -> None:
    """That it leads no more: a leader alone steps down after an election timeout or two."""
    while member.leads():
        time.sleep(0.01)


async def test_who_can_reach_only_the_minority_does_not_believe_to_be_registered(
    network: Network, cluster: EtcdCluster, connect: Connect, leader: EtcdMember, namespace: str
) -> None:
    observer, minority = await connect(), await alone_at(leader, namespace)
    registration = Registration(minority, [Instance(service=SERVICE, address="127.0.0.1:1")], ttl_s=1)
    since = (await observer.list("/")).revision + 1
    log = Log(observer, "/services/", since)
    await registration.start()
    await registration.wait(60)
    first = registration.lease
    cut_off(network, cluster, leader)
    async with asyncio.timeout(60):
        while not log.changes or log.changes[-1].kind is not ChangeKind.DELETE:
            await asyncio.sleep(0.01)
        while registration.registered or registration.lease == first:  # on a slow machine it hears later than we do
            await asyncio.sleep(0.01)
    network.heal()
    await registration.wait(60)
    listing = await observer.list("/services/")
    assert [item.lease for item in listing.items] == [registration.lease]
    await registration.stop()
    await log.close()
    await minority.close()


async def test_a_member_that_swallows_everything_costs_one_attempt(
    network: Network, connect: Connect, leader: EtcdMember
) -> None:
    """The cluster is well; only our packets to one member are lost, of old connections and of new ones."""
    old = await connect(leader, silence_s=0.2, timeout_s=60)
    since = (await old.list("/")).revision + 1
    log = Log(old, "/", since)
    expected = [await old.put("/a", b"1")]
    await log.until("/a")
    network.cut(network.here, leader.host)
    expected.append(await old.put("/a", b"2"))
    new = await connect(leader, timeout_s=60)
    assert (await new.list("/a")).items[0].value == b"2"
    expected.append(await new.put("/end", b""))
    assert await log.until("/end") == expected
    await log.close()


async def test_cut_off_from_all_it_says_so_in_time_and_goes_on_when_healed(network: Network, connect: Connect) -> None:
    """What was sent before may arrive after all: once, and before what was sent later."""
    registry = await connect(timeout_s=1)
    log = Log(await connect(), "/", (await registry.list("/")).revision + 1)
    await registry.put("/a", b"1")
    network.cut(network.here, *network.hosts)
    with pytest.raises(Unavailable, match="registry_unreachable") as raised:
        async with asyncio.timeout(60):
            await registry.put("/a", b"2")
    assert raised.value.fields["outcome"] == "unknown"
    network.heal()
    await patiently_put(registry, "/a", b"3")
    await patiently_put(registry, "/end", b"")
    await log.until("/end")
    values = [change.value for change in log.changes if change.key == "/a"]
    assert values == [b"1", *sorted(values[1:])]
    assert values.count(b"2") <= 1
    assert (await registry.list("/a")).items[0].value == values[-1] == b"3"
    await log.close()


async def test_after_the_cuts_all_agree(network: Network, cluster: EtcdCluster, connect: Connect) -> None:
    """Whoever is cut off, and whoever wrote where: every log is the same one, with every write that was confirmed."""
    writers = [await connect(member) for member in cluster.members]
    watchers = [await connect(member, silence_s=0.3) for member in cluster.members]
    since = (await writers[0].list("/")).revision + 1
    logs = [Log(registry, "/", since) for registry in watchers]
    confirmed: dict[int, str] = {}
    stop = asyncio.Event()

    async def write(number: int, registry: EtcdRegistry) -> None:
        for count in itertools.count():
            key = f"/w{number}/{count % 5}"
            if stop.is_set():
                return
            try:
                if count % 7 == 6:
                    await registry.delete(key)
                else:
                    confirmed[await registry.put(key, b"%d" % count)] = key
            except Unavailable:
                pass
            await asyncio.sleep(0.01)

    writing = [asyncio.ensure_future(write(number, registry)) for number, registry in enumerate(writers)]
    for cut in ("leader", "us"):
        leader = cluster.leader()
        if cut == "us":
            network.cut(network.here, leader.host)
        else:
            cut_off(network, cluster, leader)
        before = len(confirmed)
        async with asyncio.timeout(60):
            await asyncio.sleep(1.0)  # longer than an election
            while len(confirmed) < before + 30:
                await asyncio.sleep(0.01)
        network.heal()
        await asyncio.to_thread(cluster.heal)
    stop.set()
    await asyncio.gather(*writing)
    await patiently_put(writers[0], "/end", b"")
    for log in logs:
        await log.until("/end")
    first = logs[0]
    revisions = [change.revision for change in first.changes]
    assert revisions == sorted(set(revisions))
    assert all(log.changes == first.changes for log in logs)
    told = {change.revision: change.key for change in first.changes}
    assert confirmed.items() <= told.items()
    assert first.table() == {item.key: item.value for item in (await writers[0].list("/")).items}
    for log in logs:
        await log.close()
