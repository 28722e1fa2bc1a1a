"""Listings in pages, and strangers' keys."""

from __future__ import annotations

import pytest
from tests.registry.etcd.conftest import Connect

from dougong.registry.etcd import messages
from dougong.registry.etcd import registry as registry_module
from dougong.registry.etcd.endpoints import Endpoint

pytestmark = pytest.mark.xdist_group("etcd")


async def test_pages_are_of_one_revision(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody writes between two pages, and compacts before the third: then it begins anew."""
    registry, other = await connect(), await connect()
    for number in range(5):
        await registry.put(f"/{number}", b"old")
    monkeypatch.setattr(registry_module, "PAGE_ITEMS", 2)
    real = Endpoint.unary
    pages = 0

    async def unary(self: Endpoint, path: str, request: bytes, token: str, timeout_s: float) -> bytes:
        nonlocal pages
        answer = await real(self, path, request, token, timeout_s)
        if path.endswith("Range"):
            pages += 1
            if pages == 1:
                await other.put("/4", b"new")
            if pages == 4:
                await other.compact(await other.put("/0", b"newer"))
        return answer

    monkeypatch.setattr(Endpoint, "unary", unary)
    first = await registry.list("/")
    assert [item.value for item in first.items] == [b"old"] * 5
    assert pages == 3
    second = await registry.list("/")
    assert [item.value for item in second.items] == [b"newer", b"old", b"old", b"old", b"new"]
    assert second.revision == first.revision + 2


async def test_a_key_that_is_no_text_stops_nobody(connect: Connect) -> None:
    registry = await connect()
    revision = (await registry.list("/")).revision
    request = messages.write_request(registry._namespace + b"/\xff", b"", 0, changed_before=1)
    await registry._cluster.call("/etcdserverpb.KV/Txn", messages.read_write, request)
    await registry.put("/a", b"")
    assert [item.key for item in (await registry.list("/")).items] == ["/a"]
    assert [change.key for change in await anext(registry.watch("/", revision + 1))] == ["/a"]
