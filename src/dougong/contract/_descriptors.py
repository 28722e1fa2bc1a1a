"""Contracts as protobuf descriptors, built in this process: no protoc, no generated modules.

Two uses. The codec needs message classes for one type and what it reaches; names do not matter there, numbers do. And
services are described in files by proto package, for reflection and as `.proto` text. A message belongs to every
package whose services speak it: on the wire only numbers count, so each file stands alone and there are no cycles.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message as ProtoMessage

from dougong.contract._declare import Message, Method, Service, ServiceContract, describe
from dougong.contract._lock import numbering, reserved
from dougong.contract._shape import EnumShape, FieldShape, MessageShape, closure

__all__ = ["BATCH_FILE", "batch_names", "file_descriptors", "service_pool", "wire_classes"]

_Field = descriptor_pb2.FieldDescriptorProto
_KINDS = {
    "bool": _Field.TYPE_BOOL,
    "int64": _Field.TYPE_INT64,
    "double": _Field.TYPE_DOUBLE,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
    "enum": _Field.TYPE_ENUM,
    "message": _Field.TYPE_MESSAGE,
}
_NEXT_PACKAGE = itertools.count()


def _batch_file() -> descriptor_pb2.FileDescriptorProto:
    """`dougong/v1/batch.proto`, numbered by hand: every contract with batches shares it."""
    file = descriptor_pb2.FileDescriptorProto(name="dougong/v1/batch.proto", package="dougong.v1", syntax="proto3")
    error = file.message_type.add(name="ItemError")
    _plain(error, "index", 1, _Field.TYPE_UINT32)
    _plain(error, "family", 2, _Field.TYPE_STRING)
    _plain(error, "code", 3, _Field.TYPE_STRING)
    _plain(error, "message", 4, _Field.TYPE_STRING)
    _map(error, "fields", 5, ".dougong.v1.ItemError", _Field.TYPE_STRING, "")
    _plain(error, "retry_after_ms", 6, _Field.TYPE_UINT32)
    return file


def _plain(
    owner: descriptor_pb2.DescriptorProto,
    name: str,
    number: int,
    kind: _Field.Type.ValueType,
    *,
    type_name: str = "",
    repeated: bool = False,
    json_name: str = "",
) -> _Field:
    field = owner.field.add(name=name, number=number, type=kind, json_name=json_name or name)
    field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
    if type_name:
        field.type_name = type_name
    return field


def _map(
    owner: descriptor_pb2.DescriptorProto,
    name: str,
    number: int,
    owner_name: str,
    kind: _Field.Type.ValueType,
    type_name: str,
    json_name: str = "",
) -> None:
    """A map is a repeated nested message with `map_entry` set; its name is prescribed."""
    entry = owner.nested_type.add(name="".join(part.capitalize() for part in name.split("_")) + "Entry")
    entry.options.map_entry = True
    _plain(entry, "key", 1, _Field.TYPE_STRING)
    _plain(entry, "value", 2, kind, type_name=type_name)
    _plain(
        owner,
        name,
        number,
        _Field.TYPE_MESSAGE,
        type_name=f"{owner_name}.{entry.name}",
        repeated=True,
        json_name=json_name,
    )


BATCH_FILE = _batch_file()


def _add_types(
    file: descriptor_pb2.FileDescriptorProto, messages: Sequence[MessageShape], enums: Sequence[EnumShape]
) -> None:
    numbers = numbering(messages, enums)
    for message in messages:
        proto = file.message_type.add(name=message.name)
        for field in message.fields:
            _add_field(file.package, proto, field, numbers[message.type][field.name])
        for name, number in reserved(message).items():
            proto.reserved_name.append(name)
            proto.reserved_range.add(start=number, end=number + 1)  # end is exclusive here
    for enum in enums:
        wire = file.enum_type.add(name=enum.name)
        wire.value.add(name=enum.value_name("UNSPECIFIED"), number=0)
        for member, number in sorted(numbers[enum.type].items(), key=lambda item: item[1]):
            wire.value.add(name=enum.value_name(member), number=number)
        for member, number in reserved(enum).items():
            wire.reserved_name.append(enum.value_name(member))
            wire.reserved_range.add(start=number, end=number)  # and inclusive here


def _add_field(package: str, proto: descriptor_pb2.DescriptorProto, field: FieldShape, number: int) -> None:
    kind = _KINDS[field.value.kind]
    type_name = f".{package}.{field.value.type.__name__}" if field.value.kind in ("enum", "message") else ""
    if field.form == "map":
        _map(proto, field.name, number, f".{package}.{proto.name}", kind, type_name, field.json_name)
        return
    repeated = field.form in ("list", "tuple")
    added = _plain(proto, field.name, number, kind, type_name=type_name, repeated=repeated, json_name=field.json_name)
    if field.presence:
        added.proto3_optional = True
        added.oneof_index = len(proto.oneof_decl)
        proto.oneof_decl.add(name=f"_{field.name}")


def batch_names(method: Method) -> tuple[str, str]:
    """Names of the two frames of a batched method: the service's name keeps them apart within a package."""
    stem = method.service.rpartition(".")[2] + method.name
    return f"{stem}BatchRequest", f"{stem}BatchReply"


def _add_frames(file: descriptor_pb2.FileDescriptorProto, method: Method) -> None:
    if BATCH_FILE.name not in file.dependency:
        file.dependency.append(BATCH_FILE.name)
    request_name, reply_name = batch_names(method)
    request = file.message_type.add(name=request_name)
    _plain(request, "batch", 1, _Field.TYPE_UINT64)
    _plain(request, "timeout_ms", 2, _Field.TYPE_UINT32)
    _plain(request, "traceparents", 3, _Field.TYPE_STRING, repeated=True)
    kind = _Field.TYPE_MESSAGE
    _plain(request, "requests", 4, kind, type_name=f".{file.package}.{method.request.__name__}", repeated=True)
    _plain(request, "baggage", 5, _Field.TYPE_STRING)
    reply = file.message_type.add(name=reply_name)
    _plain(reply, "batch", 1, _Field.TYPE_UINT64)
    _plain(reply, "reply_index", 2, _Field.TYPE_UINT32, repeated=True)
    _plain(reply, "replies", 3, kind, type_name=f".{file.package}.{method.response.__name__}", repeated=True)
    _plain(reply, "errors", 4, kind, type_name=".dougong.v1.ItemError", repeated=True)


def wire_classes(
    roots: Sequence[type[Message]], frames_of: Method | None = None
) -> tuple[list[MessageShape], list[EnumShape], dict[str, type[ProtoMessage]]]:
    """What the codec works on: shapes reachable from `roots` and protobuf classes by name, in a pool of their own."""
    messages, enums = closure(roots)
    number = next(_NEXT_PACKAGE)
    file = descriptor_pb2.FileDescriptorProto(name=f"codec{number}.proto", package=f"codec{number}", syntax="proto3")
    _add_types(file, messages, enums)
    names = [message.name for message in messages]
    if frames_of is not None:
        _add_frames(file, frames_of)
        names += batch_names(frames_of)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(BATCH_FILE)
    pool.Add(file)
    found = {name: pool.FindMessageTypeByName(f"{file.package}.{name}") for name in names}
    return list(messages), list(enums), {name: message_factory.GetMessageClass(kind) for name, kind in found.items()}


def file_descriptors(services: Iterable[type[Service]]) -> list[descriptor_pb2.FileDescriptorProto]:
    """One file per proto package (`shop.v1` → `shop/v1/contract.proto`), after the files it imports.

    TypeError naming the two when types or methods collide within a package.
    """
    packages: dict[str, list[ServiceContract]] = {}
    for service in services:
        contract = describe(service)
        packages.setdefault(contract.name.rpartition(".")[0], []).append(contract)
    files = [_package_file(package, contracts) for package, contracts in sorted(packages.items())]
    shared = [BATCH_FILE] if any(BATCH_FILE.name in file.dependency for file in files) else []
    return [*shared, *files]


def _package_file(package: str, contracts: Sequence[ServiceContract]) -> descriptor_pb2.FileDescriptorProto:
    name = package.replace(".", "/") + "/contract.proto"
    file = descriptor_pb2.FileDescriptorProto(name=name, package=package, syntax="proto3")
    methods = [method for contract in contracts for method in contract.methods]
    messages, enums = closure(kind for method in methods for kind in (method.request, method.response))
    _add_types(file, messages, enums)
    for contract in contracts:
        service = file.service.add(name=contract.name.rpartition(".")[2])
        for method in contract.methods:
            added = service.method.add(
                name=method.name,
                input_type=f".{package}.{method.request.__name__}",
                output_type=f".{package}.{method.response.__name__}",
            )
            if method.client_streaming:  # left unset otherwise, as protoc does: set and false is not the same bytes
                added.client_streaming = True
            if method.server_streaming:
                added.server_streaming = True
            if method.idempotent:
                added.options.idempotency_level = descriptor_pb2.MethodOptions.IDEMPOTENT
            if method.max_batch:
                _add_frames(file, method)
                request_name, reply_name = batch_names(method)
                service.method.add(
                    name=f"{method.name}Batch",
                    input_type=f".{package}.{request_name}",
                    output_type=f".{package}.{reply_name}",
                    client_streaming=True,
                    server_streaming=True,
                )
    _refuse_duplicates(package, file)
    return file


def _refuse_duplicates(package: str, file: descriptor_pb2.FileDescriptorProto) -> None:
    seen: set[str] = set()
    values = [value.name for enum in file.enum_type for value in enum.value]
    types = [*(m.name for m in file.message_type), *(e.name for e in file.enum_type), *(s.name for s in file.service)]
    for name in types + values:
        if name in seen:
            raise TypeError(
                f"the name {name} stands twice in package {package}; rename one, or move it to another package"
            )
        seen.add(name)
    for service in file.service:
        methods: set[str] = set()
        for method in service.method:
            if method.name in methods:
                raise TypeError(f"{package}.{service.name} has two methods named {method.name} on the wire; rename one")
            methods.add(method.name)


def service_pool(services: Iterable[type[Service]]) -> descriptor_pool.DescriptorPool:
    """A pool of its own with these services' files, as gRPC reflection serves them."""
    return _pool(tuple(services))


@functools.cache
def _pool(services: tuple[type[Service], ...]) -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for file in file_descriptors(services):
        pool.Add(file)
    return pool
