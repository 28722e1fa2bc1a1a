"""The registry on an etcd cluster."""

from __future__ import annotations

import asyncio
import math
import random as random_module
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

from dougong.errors import Overloaded, Unavailable
from dougong.registry._protocol import Change, KeyValue, Lease, Listing
from dougong.registry.etcd import messages
from dougong.registry.etcd.cluster import Answer, Cluster
from dougong.registry.etcd.failures import COMPACTED, FUTURE, LEASE_EXISTS, NO_LEASE, Failed
from dougong.registry.etcd.messages import Item, Ranged, Reply, Wrote
from dougong.registry.etcd.position import Position
from dougong.registry.etcd.settings import EtcdSettings
from dougong.registry.etcd.watching import follow
from dougong.registry.keys import check_key, check_ttl, check_value
from dougong.registry.keyspace import future_revision, key_exists, lease_not_found

R = TypeVar("R", bound=Reply)

PAGE_ITEMS = 1_000
_ROOT = "/etcdserverpb."


class EtcdRegistry:
    """`Registry` on etcd 3.4 or later.

    Every call asks one endpoint after the other within `timeout_s` and raises `Unavailable` when none answers (code
    `registry_unreachable`, field `outcome`: `not_done`, or `unknown` for a write that may have been carried out), also
    `Overloaded` (`registry_busy`), `Unauthenticated` (`registry_login`), `Forbidden` (`registry_forbidden`).

    A write changes nothing once the key has changed since it was sent, so that of several attempts one counts, in
    whatever order they arrive. Two writes of the same value to one key at once under one lease are therefore taken for
    one. The exception is a key that was deleted meanwhile: an attempt that arrives very late brings it back, unless its
    lease is gone too.
    """

    def __init__(self, settings: EtcdSettings, *, random: random_module.Random | None = None) -> None:
        self._settings = settings
        self._random = random if random is not None else random_module.Random()
        self._cluster = Cluster(settings, self._random)
        self._namespace = settings.namespace.encode()

    async def open(self) -> None:
        """Log in and look whether somebody is there."""
        try:
            await self._cluster.login()
            await self._range(messages.range_request(self._key("/")))
        except Failed as failed:
            raise failed.error() from None

    async def grant(self, ttl_s: float) -> Lease:
        """etcd counts whole seconds, and gives no less than one and a half election timeouts."""
        check_ttl(ttl_s)
        lease = secrets.randbits(62) + 1  # ours to choose: a grant sent twice is then one
        try:
            request = messages.grant_request(lease, math.ceil(ttl_s))
            granted = (await self._cluster.call(f"{_ROOT}Lease/LeaseGrant", messages.read_lease, request)).reply
        except Failed as failed:
            if LEASE_EXISTS not in failed.text:
                raise failed.error() from None
            answer = await self._call("Lease/LeaseTimeToLive", messages.read_granted, messages.lease_request(lease))
            granted = answer.reply
        return Lease(id=lease, ttl_s=granted.ttl_s)

    async def keep_alive(self, lease: int) -> float:
        # A stream in etcd's API. With one question and one answer it looks on the wire just like a call, and so it
        # goes elsewhere when an endpoint hangs as calls do, instead of needing a watchdog.
        answer = await self._call("Lease/LeaseKeepAlive", messages.read_lease, messages.lease_request(lease))
        return answer.reply.ttl_s

    async def revoke(self, lease: int) -> None:
        try:
            request = messages.lease_request(lease)
            await self._cluster.call(f"{_ROOT}Lease/LeaseRevoke", messages.read_header, request)
        except Failed as failed:
            if NO_LEASE not in failed.text:
                raise failed.error() from None

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        check_key(key)
        check_value(key, value)

        def request(changed_before: int) -> bytes:
            return messages.write_request(self._key(key), value, lease, changed_before=changed_before)

        answer, seen = await self._change(key, lease, request)
        reply = answer.reply
        if reply.done:
            return reply.revision
        found = reply.found
        if found is not None and _same(found, value, lease, since=seen):
            return found.mod_revision
        raise _unknown(f"whether {key!r} was put", key)

    async def create(self, key: str, value: bytes, *, lease: int = 0) -> int:
        check_key(key)
        check_value(key, value)
        seen = self._cluster.revision
        request = messages.write_request(self._key(key), value, lease, changed_before=1)
        answer = await self._write(key, lease, request)
        reply, found = answer.reply, answer.reply.found
        if found is None:
            return reply.revision
        if not (answer.again and _same(found, value, lease, since=seen)):
            raise key_exists(key, found.create_revision)
        if not lease:  # then nothing says whose it is, and two would believe that it is theirs
            raise Unavailable(
                f"whether {key!r} was created by us is unknown: the answer was lost; delete it, or create it under a "
                "lease",
                code="outcome_unknown",
                key=key,
            )
        return found.create_revision

    async def delete(self, key: str) -> bool:
        """After a lost answer: whether the key was there when the call began."""
        check_key(key)

        def request(changed_before: int) -> bytes:
            return messages.delete_request(self._key(key), changed_before=changed_before)

        answer, seen = await self._change(key, 0, request)
        if not answer.reply.done:
            raise _unknown(f"whether {key!r} was deleted", key)
        if answer.reply.deleted or not answer.again:
            return answer.reply.deleted > 0
        try:
            return bool((await self._range(messages.range_request(self._key(key), revision=seen))).reply.items)
        except Failed:  # forgotten: it was there, as far as we know
            return True

    async def list(self, prefix: str) -> Listing:
        start, end = messages.range_end(self._key(prefix))
        while True:
            try:
                return await self._list(start, end)
            except Failed as failed:
                if COMPACTED not in failed.text:  # between two pages: from the start
                    raise failed.error() from None

    def watch(self, prefix: str, from_revision: int) -> AsyncIterator[Sequence[Change]]:
        """Goes on by itself at another endpoint; `Unavailable` when none takes it for `timeout_s`."""
        return follow(self._cluster, self._key(prefix), Position(from_revision, self._name))

    async def compact(self, revision: int) -> None:
        try:
            await self._cluster.call(
                f"{_ROOT}KV/Compact", messages.read_header, messages.compact_request(max(0, revision))
            )
        except Failed as failed:
            if FUTURE in failed.text:
                at = (await self._range(messages.range_request(self._key("/")))).reply.revision
                raise future_revision(revision, at) from None
            if COMPACTED not in failed.text:
                raise failed.error() from None

    async def close(self) -> None:
        await self._cluster.close()

    async def _change(self, key: str, lease: int, request: Callable[[int], bytes]) -> tuple[Answer[Wrote], int]:
        """Change a key, whatever it is; with the answer goes the revision that it was not to be changed after.

        Not even the first attempt is unconditional. One that was given up may still arrive, after the next was answered
        and somebody else has changed the key since: what was sent for an older key must then do nothing.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.timeout_s
        seen = self._cluster.revision
        while True:
            answer = await self._write(key, lease, request(seen + 1), until)
            found = answer.reply.found
            if answer.reply.done or answer.again or found is None:
                return answer, seen
            seen = found.mod_revision  # somebody was quicker, and nothing of ours is on its way
            if loop.time() > until:
                raise Overloaded(f"{key!r} is changed by too many at once", code="registry_busy", retry_after_s=0.1)

    async def _write(self, key: str, lease: int, request: bytes, until: float | None = None) -> Answer[Wrote]:
        try:
            return await self._cluster.call(f"{_ROOT}KV/Txn", messages.read_write, request, until=until)
        except Failed as failed:
            raise (lease_not_found(lease, key) if NO_LEASE in failed.text else failed.error()) from None

    async def _list(self, start: bytes, end: bytes) -> Listing:
        """In pages, all of one revision."""
        items: list[KeyValue] = []
        revision = 0
        while True:
            request = messages.range_request(start, end, limit=PAGE_ITEMS, revision=revision)
            page = (await self._range(request)).reply
            revision = revision or page.revision
            for item in page.items:
                name = self._name(item.key)
                if name is not None:
                    items.append(KeyValue(name, item.value, item.create_revision, item.mod_revision, item.lease))
            if not page.more:
                return Listing(items=tuple(items), revision=revision)
            start = page.items[-1].key + b"\0"

    async def _range(self, request: bytes) -> Answer[Ranged]:
        return await self._cluster.call(f"{_ROOT}KV/Range", messages.read_range, request)

    async def _call(self, method: str, read: Callable[[bytes], R], request: bytes) -> Answer[R]:
        try:
            return await self._cluster.call(_ROOT + method, read, request)
        except Failed as failed:
            raise failed.error() from None

    def _key(self, key: str) -> bytes:
        return self._namespace + key.encode()

    def _name(self, key: bytes) -> str | None:
        """None for a stranger's key that is no text: it must not stop discovery."""
        try:
            return key[len(self._namespace) :].decode()
        except UnicodeDecodeError:
            return None


def _unknown(what: str, key: str) -> Unavailable:
    return Unavailable(
        f"{what} is unknown: the answer was lost, and by now somebody else has put it; read it",
        code="outcome_unknown",
        key=key,
    )


def _same(found: Item, value: bytes, lease: int, *, since: int) -> bool:
    """Whether what stands there is what was sent after revision `since`."""
    return found.mod_revision > since and found.value == value and found.lease == lease
