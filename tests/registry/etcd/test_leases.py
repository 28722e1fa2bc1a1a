"""Leases in real time: what the common suite can ask only of registries whose clock is ours."""

from __future__ import annotations

import asyncio

import pytest
from tests.registry.etcd.conftest import Connect

from dougong.errors import NotFound
from dougong.registry import Change, ChangeKind, Discovery, Instance, Registration
from dougong.registry.etcd.endpoints import Endpoint
from dougong.registry.etcd.failures import Failed

pytestmark = pytest.mark.xdist_group("etcd")


async def test_the_ttl_is_what_etcd_grants(connect: Connect) -> None:
    registry = await connect()
    lease = await registry.grant(0.2)
    assert lease.ttl_s == 1.0  # whole seconds, and no less than one and a half election timeouts of 0.5 s
    assert (await registry.grant(7.1)).ttl_s == 8.0
    assert await registry.keep_alive(lease.id) == 1.0


async def test_a_lease_that_nobody_renews_takes_all_its_keys_at_one_revision(connect: Connect) -> None:
    registry = await connect()
    lease, kept = await registry.grant(1), await registry.grant(1)
    for key in ("/c", "/a", "/b"):
        await registry.put(key, b"x", lease=lease.id)
    revision = await registry.put("/kept", b"x", lease=kept.id)
    changes = asyncio.ensure_future(anext(registry.watch("/", revision + 1)))
    async with asyncio.timeout(60):
        while not changes.done():
            assert await registry.keep_alive(kept.id) == 1.0
            await asyncio.sleep(0.1)
    assert await changes == tuple(Change(ChangeKind.DELETE, key, revision + 1) for key in ("/a", "/b", "/c"))
    assert await registry.keep_alive(lease.id) == 0.0
    for write in (registry.put, registry.create):
        with pytest.raises(NotFound, match="lease_not_found"):
            await write("/a", b"", lease=lease.id)
    await registry.revoke(kept.id)


async def test_a_grant_whose_answer_was_lost_is_one_lease(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = await connect()
    real = Endpoint.unary
    lost: list[str] = []

    async def unary(self: Endpoint, path: str, request: bytes, token: str, timeout_s: float) -> bytes:
        answer = await real(self, path, request, token, timeout_s)
        if path.endswith("LeaseGrant") and not lost:
            lost.append(path)
            raise Failed("UNAVAILABLE", "the answer is lost", self.address)
        return answer

    monkeypatch.setattr(Endpoint, "unary", unary)
    lease = await registry.grant(30)
    assert (lost, lease.ttl_s) == (["/etcdserverpb.Lease/LeaseGrant"], 30.0)
    assert await registry.keep_alive(lease.id) == 30.0
    await registry.revoke(lease.id)


async def test_a_registration_comes_back_when_its_lease_was_revoked(connect: Connect) -> None:
    server, client = await connect(), await connect()
    registration = Registration(server, [Instance(service="shop.v1.Orders", address="127.0.0.1:1")], ttl_s=1)
    discovery = Discovery(client)
    await registration.start()
    orders = await discovery.resolve("shop.v1.Orders")
    assert [instance.address for instance in await orders.wait_ready(60)] == ["127.0.0.1:1"]
    first = registration.lease
    await client.revoke(first)
    async with asyncio.timeout(60):
        while registration.lease in {0, first} or not registration.registered:
            await asyncio.sleep(0.02)
    assert registration.grants == 2
    assert len(orders.instances()) == 1  # the last one was never believed to be gone
    await registration.stop()
    async with asyncio.timeout(60):
        while orders.instances():
            await orders.changed()
    await discovery.close()
