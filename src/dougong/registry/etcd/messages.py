"""The few messages of etcd's v3 API that a registry needs, under etcd's own field numbers.

They are described here and built when this module is imported, in a pool of their own: no protoc, no generated modules,
and no clash with another package that brings etcd's files. Requests leave as bytes, replies come back as plain values,
so that nothing else here knows protobuf. Bytes that are no such message are a `Failed` attempt like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from dougong.registry._protocol import ChangeKind
from dougong.registry.etcd.failures import Failed

_TABLE = {
    "ResponseHeader": "cluster_id=1:uint64 revision=3:int64",
    "KeyValue": "key=1:bytes create_revision=2:int64 mod_revision=3:int64 value=5:bytes lease=6:int64",
    "RangeRequest": "key=1:bytes range_end=2:bytes limit=3:int64 revision=4:int64",
    "RangeResponse": "header=1:ResponseHeader kvs=2:KeyValue* more=3:bool",
    "PutRequest": "key=1:bytes value=2:bytes lease=3:int64",
    "DeleteRangeRequest": "key=1:bytes",
    "DeleteRangeResponse": "header=1:ResponseHeader deleted=2:int64",
    "RequestOp": "request_range=1:RangeRequest request_put=2:PutRequest request_delete_range=3:DeleteRangeRequest",
    "ResponseOp": "response_range=1:RangeResponse response_delete_range=3:DeleteRangeResponse",
    "Compare": "result=1:int32 target=2:int32 key=3:bytes mod_revision=6:int64",  # both are enums: varints as well
    "TxnRequest": "compare=1:Compare* success=2:RequestOp* failure=3:RequestOp*",
    "TxnResponse": "header=1:ResponseHeader succeeded=2:bool responses=3:ResponseOp*",
    "CompactionRequest": "revision=1:int64",
    "HeaderResponse": "header=1:ResponseHeader",  # what all replies have in common
    "LeaseGrantRequest": "TTL=1:int64 ID=2:int64",
    "LeaseRequest": "ID=1:int64",  # to revoke, to keep alive, to ask for its time to live
    "LeaseGrantResponse": "header=1:ResponseHeader ID=2:int64 TTL=3:int64",  # and of LeaseKeepAlive
    "LeaseTimeToLiveResponse": "header=1:ResponseHeader ID=2:int64 TTL=3:int64 grantedTTL=4:int64",
    "WatchCreateRequest": "key=1:bytes range_end=2:bytes start_revision=3:int64 progress_notify=4:bool fragment=8:bool",
    "WatchProgressRequest": "",
    "WatchRequest": "create_request=1:WatchCreateRequest progress_request=3:WatchProgressRequest",
    "Event": "type=1:int32 kv=2:KeyValue",
    "WatchResponse": "header=1:ResponseHeader watch_id=2:int64 created=3:bool canceled=4:bool compact_revision=5:int64 "
    "cancel_reason=6:string fragment=7:bool events=11:Event*",
    "AuthenticateRequest": "name=1:string password=2:string",
    "AuthenticateResponse": "header=1:ResponseHeader token=2:string",
}  # fmt: skip
_LESS, _MOD = 2, 2  # Compare.CompareResult.LESS, Compare.CompareTarget.MOD
_DELETE = 1  # Event.EventType.DELETE


def _build() -> dict[str, Callable[..., Any]]:
    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="dougong/etcd.proto", package="etcdserverpb", syntax="proto3")
    for name, fields in _TABLE.items():
        message = file.message_type.add(name=name)
        for field in fields.split():
            label, _, rest = field.partition("=")
            number, _, kind = rest.partition(":")
            added = message.field.add(name=label, number=int(number), label=field_type.LABEL_OPTIONAL)
            if kind.endswith("*"):
                added.label, kind = field_type.LABEL_REPEATED, kind[:-1]
            if kind in _TABLE:
                added.type, added.type_name = field_type.TYPE_MESSAGE, f".etcdserverpb.{kind}"
            else:
                added.type = field_type.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"etcdserverpb.{name}")) for name in _TABLE
    }


_new = _build()


class Item(msgspec.Struct, frozen=True):
    """A key as etcd keeps it: bytes, under its full name."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int


class Reply(msgspec.Struct, frozen=True):
    """What every answer says about the whole store."""

    cluster: int
    revision: int
    """0 when etcd says nothing, as in refusals: to be believed of no store."""


class Ranged(Reply, frozen=True):
    items: tuple[Item, ...]
    more: bool


class Wrote(Reply, frozen=True):
    """`done`, or else what was `found` instead."""

    done: bool
    found: Item | None
    deleted: int = 0


class Leased(Reply, frozen=True):
    id: int
    ttl_s: float
    """0 when there is no such lease: etcd does not call that an error."""


class LoggedIn(Reply, frozen=True):
    token: str


class Event(msgspec.Struct, frozen=True):
    kind: ChangeKind
    key: bytes
    revision: int
    value: bytes


class Watched(Reply, frozen=True):
    watch_id: int
    """-1 in answers to no watch in particular: to a request for progress, and to a refused login."""
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    fragment: bool = False
    """More of the same response follows."""
    events: tuple[Event, ...] = ()


def _range(key: bytes, end: bytes, limit: int, revision: int) -> Any:
    return _new["RangeRequest"](key=key, range_end=end, limit=limit, revision=revision)


def range_request(key: bytes, end: bytes = b"", *, limit: int = 0, revision: int = 0) -> bytes:
    """Keys from `key` up to and without `end`; one key without it."""
    return _bytes(_range(key, end, limit, revision))


def write_request(key: bytes, value: bytes, lease: int, *, changed_before: int) -> bytes:
    """Set `key`, but only if it was last changed before a revision (1: if it does not exist); else say what it is."""
    put = _new["PutRequest"](key=key, value=value, lease=lease)
    return _guarded(key, _new["RequestOp"](request_put=put), changed_before)


def delete_request(key: bytes, *, changed_before: int) -> bytes:
    """Delete `key`, likewise."""
    delete = _new["DeleteRangeRequest"](key=key)
    return _guarded(key, _new["RequestOp"](request_delete_range=delete), changed_before)


def _guarded(key: bytes, do: Any, changed_before: int) -> bytes:
    unchanged = _new["Compare"](result=_LESS, target=_MOD, key=key, mod_revision=changed_before)
    look = _new["RequestOp"](request_range=_range(key, b"", 0, 0))
    return _bytes(_new["TxnRequest"](compare=[unchanged], success=[do], failure=[look]))


def compact_request(revision: int) -> bytes:
    return _bytes(_new["CompactionRequest"](revision=revision))


def grant_request(lease: int, ttl_s: int) -> bytes:
    return _bytes(_new["LeaseGrantRequest"](ID=lease, TTL=ttl_s))


def lease_request(lease: int) -> bytes:
    return _bytes(_new["LeaseRequest"](ID=lease))


def login_request(user: str, password: str) -> bytes:
    return _bytes(_new["AuthenticateRequest"](name=user, password=password))


def watch_request(key: bytes, end: bytes, start: int) -> bytes:
    """From revision `start` on. A large revision may come in fragments, so that no message has to hold all of it."""
    create = _new["WatchCreateRequest"](
        key=key, range_end=end, start_revision=start, progress_notify=True, fragment=True
    )
    return _bytes(_new["WatchRequest"](create_request=create))


def progress_request() -> bytes:
    return _bytes(_new["WatchRequest"](progress_request=_new["WatchProgressRequest"]()))


def read_header(data: bytes) -> Reply:
    return Reply(*_header(_parse("HeaderResponse", data)))


def read_range(data: bytes) -> Ranged:
    reply = _parse("RangeResponse", data)
    if reply.more and not reply.kvs:
        raise _strange()
    return Ranged(*_header(reply), tuple(map(_item, reply.kvs)), reply.more)


def read_write(data: bytes) -> Wrote:
    """Of a write or a delete."""
    reply = _parse("TxnResponse", data)
    if reply.succeeded:
        return Wrote(*_header(reply), True, None, sum(each.response_delete_range.deleted for each in reply.responses))
    if not reply.responses:
        raise _strange()
    found = [kv for each in reply.responses for kv in each.response_range.kvs]
    return Wrote(*_header(reply), False, _item(found[0]) if found else None)


def read_lease(data: bytes) -> Leased:
    reply = _parse("LeaseGrantResponse", data)
    return Leased(*_header(reply), reply.ID, float(max(0, reply.TTL)))


def read_granted(data: bytes) -> Leased:
    """Of LeaseTimeToLive: the TTL as it was granted, or 0."""
    reply = _parse("LeaseTimeToLiveResponse", data)
    return Leased(*_header(reply), reply.ID, float(reply.grantedTTL) if reply.TTL > 0 else 0.0)


def read_login(data: bytes) -> LoggedIn:
    reply = _parse("AuthenticateResponse", data)
    return LoggedIn(*_header(reply), reply.token)


def read_watch(data: bytes) -> Watched:
    reply = _parse("WatchResponse", data)
    return Watched(
        *_header(reply),
        reply.watch_id,
        reply.created,
        reply.canceled,
        reply.compact_revision,
        reply.cancel_reason,
        reply.fragment,
        _events(reply.events),
    )


def range_end(prefix: bytes) -> tuple[bytes, bytes]:
    r"""Which keys start with `prefix`, as etcd wants it: the first, and the first that does not. `\0` means all.

    >>> range_end(b"/a/")
    (b'/a/', b'/a0')
    """
    stem = prefix.rstrip(b"\xff")
    return prefix or b"\0", stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\0"


def _bytes(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def _parse(name: str, data: bytes) -> Any:
    message = _new[name]()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise _strange() from None
    return message


def _strange() -> Failed:
    return Failed("UNKNOWN", "the answer is none of etcd's: does something else listen there?", "etcd")


def _header(reply: Any) -> tuple[int, int]:
    return reply.header.cluster_id, reply.header.revision


def _item(kv: Any) -> Item:
    return Item(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.lease)


def _events(events: Sequence[Any]) -> tuple[Event, ...]:
    return tuple(
        Event(
            ChangeKind.DELETE if event.type == _DELETE else ChangeKind.PUT,
            event.kv.key,
            event.kv.mod_revision,
            event.kv.value,
        )
        for event in events
    )
