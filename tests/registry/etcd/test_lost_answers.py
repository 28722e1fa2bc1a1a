"""Answers that are lost and requests that are late, on a real cluster: what is written then, and what is said of it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable

import pytest
from tests.registry.etcd.conftest import Connect

from dougong.errors import Conflict, Unavailable
from dougong.registry.etcd import messages
from dougong.registry.etcd import registry as registry_module
from dougong.registry.etcd.endpoints import Endpoint
from dougong.registry.etcd.failures import Failed

pytestmark = pytest.mark.xdist_group("etcd")


class Lossy:
    """Endpoints that carry a request out and lose the first answer to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
        self.lost = 0
        real = Endpoint.unary
        lossy = self

        async def unary(self: Endpoint, path: str, request: bytes, token: str, timeout_s: float) -> bytes:
            answer = await real(self, path, request, token, timeout_s)
            if path.endswith(method) and not lossy.lost:
                lossy.lost += 1
                await lossy.meanwhile()
                raise Failed("UNAVAILABLE", "the answer is lost", self.address)
            return answer

        monkeypatch.setattr(Endpoint, "unary", unary)

    async def meanwhile(self) -> None:
        """What happens before it is asked again."""


async def test_a_create_that_was_won_is_no_conflict(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = await connect()
    lease = await registry.grant(30)
    lossy = Lossy(monkeypatch, "Txn")
    revision = await registry.create("/lock", b"me", lease=lease.id)
    assert lossy.lost == 1
    (item,) = (await registry.list("/lock")).items
    assert (item.create_revision, item.mod_revision, item.lease) == (revision, revision, lease.id)
    with pytest.raises(Conflict, match="key_exists"):
        await registry.create("/lock", b"me", lease=lease.id)
    # The ablation: who does not look at what he finds is told that his own key is in the way.
    lossy.lost = 0
    monkeypatch.setattr(registry_module, "_same", lambda *_, **__: False)
    with pytest.raises(Conflict, match="key_exists"):
        await registry.create("/other", b"me", lease=lease.id)
    await registry.revoke(lease.id)


async def test_whose_create_it_was_is_not_guessed(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = await connect()
    Lossy(monkeypatch, "Txn")
    with pytest.raises(Unavailable, match="outcome_unknown"):
        await registry.create("/lock", b"me")  # without a lease anybody may have written the same


async def test_a_put_is_not_put_twice(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    registry, other = await connect(), await connect()
    lossy = Lossy(monkeypatch, "Txn")
    revision = await registry.put("/a", b"mine")
    assert lossy.lost == 1
    assert (await registry.list("/a")).items[0].mod_revision == revision
    assert (await registry.list("/a")).revision == revision

    async def meanwhile() -> None:
        await other.put("/a", b"theirs")

    lossy.lost = 0
    lossy.meanwhile = meanwhile  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="outcome_unknown"):
        await registry.put("/a", b"mine again")
    assert (await registry.list("/a")).items[0].value == b"theirs"  # a blind repeat would have taken it back


class Late:
    """Endpoints to which the first write arrives only when it is let go: it is given up long before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.arrive: Callable[[], Awaitable[bytes]] | None = None
        real = Endpoint.unary
        late = self

        async def unary(self: Endpoint, path: str, request: bytes, token: str, timeout_s: float) -> bytes:
            if path.endswith("Txn") and late.arrive is None:
                late.arrive = functools.partial(real, self, path, request, token, 60.0)
                raise Failed("DEADLINE_EXCEEDED", "", self.address)
            return await real(self, path, request, token, timeout_s)

        monkeypatch.setattr(Endpoint, "unary", unary)


@pytest.mark.parametrize("what", ["put", "delete"])
async def test_what_arrives_late_takes_nothing_back(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    registry, other = await connect(), await connect()

    async def after() -> list[bytes]:
        """What stands there when somebody has put something new, and the first attempt arrives at last."""
        await registry.put("/a", b"old")
        late = Late(monkeypatch)
        if what == "put":
            await registry.put("/a", b"mine")
        else:
            assert await registry.delete("/a") is True
        assert late.arrive is not None
        await other.put("/a", b"theirs")
        await late.arrive()
        monkeypatch.undo()
        return [item.value for item in (await other.list("/a")).items]

    assert await after() == [b"theirs"]
    # The ablation: whatever the key is.
    for name in ("write_request", "delete_request"):
        real = getattr(messages, name)
        monkeypatch.setattr(messages, name, _whatever(real))
    assert await after() == ([b"mine"] if what == "put" else [])


def _whatever(request: Callable[..., bytes]) -> Callable[..., bytes]:
    return lambda *arguments, changed_before: request(*arguments, changed_before=2**62)


async def test_a_delete_whose_answer_was_lost_deletes_nothing_newer(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, other = await connect(), await connect()
    await registry.put("/a", b"old")
    lossy = Lossy(monkeypatch, "Txn")

    async def meanwhile() -> None:
        await other.put("/a", b"theirs")

    lossy.meanwhile = meanwhile  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="outcome_unknown"):
        await registry.delete("/a")
    assert [item.value for item in (await registry.list("/a")).items] == [b"theirs"]


async def test_all_who_write_one_key_at_once_get_through(connect: Connect) -> None:
    """Whoever was not the first has to send again, knowing more."""
    registries = [await connect(timeout_s=60, attempt_s=20) for _ in range(4)]
    since = (await registries[0].list("/")).revision
    writes = [registries[number % 4].put("/a", b"%d" % number) for number in range(40)]
    assert sorted(await asyncio.gather(*writes)) == list(range(since + 1, since + 41))
    deletes = await asyncio.gather(*(registry.delete("/a") for registry in registries))
    assert sorted(deletes) == [False, False, False, True]


async def test_a_delete_whose_answer_was_lost_tells_what_was_there(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = await connect()
    await registry.put("/a", b"")
    lossy = Lossy(monkeypatch, "Txn")
    assert await registry.delete("/a") is True
    lossy.lost = 0
    assert await registry.delete("/a") is False
    assert lossy.lost == 1
