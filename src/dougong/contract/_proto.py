"""Contracts as `.proto` text, for people and for other languages' generators.

Printed from the descriptors that reflection serves, so that the two cannot differ; comments come from docstrings.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from google.protobuf import descriptor_pb2

from dougong.contract._declare import Method, Service, describe
from dougong.contract._descriptors import BATCH_FILE, batch_names, file_descriptors
from dougong.contract._shape import closure

__all__ = ["proto_files", "proto_text"]

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    _Field.TYPE_BOOL: "bool",
    _Field.TYPE_INT64: "int64",
    _Field.TYPE_UINT32: "uint32",
    _Field.TYPE_UINT64: "uint64",
    _Field.TYPE_DOUBLE: "double",
    _Field.TYPE_STRING: "string",
    _Field.TYPE_BYTES: "bytes",
}
_BATCH_DOCS = {
    "ItemError": "What became of one request of a batch that failed. `family` says what the caller should do."
}


def proto_files(services: Iterable[type[Service]]) -> dict[str, str]:
    """Path → text of every file these services need, in an order in which imports come first."""
    services = list(services)
    texts: dict[str, str] = {}
    for file in file_descriptors(services):
        if file.name == BATCH_FILE.name:
            texts[file.name] = _text(file, _BATCH_DOCS)
        else:
            own = [service for service in services if describe(service).name.rpartition(".")[0] == file.package]
            texts[file.name] = _text(file, _docs(own))
    return texts


def proto_text(services: Iterable[type[Service]]) -> str:
    """The `.proto` of services of one package. TypeError if they are of several: use `proto_files`."""
    texts = {path: text for path, text in proto_files(services).items() if path != BATCH_FILE.name}
    if len(texts) != 1:
        raise TypeError(f"these services make {len(texts)} files ({', '.join(texts)}); use proto_files")
    return next(iter(texts.values()))


def _docs(services: Sequence[type[Service]]) -> dict[str, str]:
    """What is said about each name: `Line`, `Line.sku`, `Orders`, `Orders.Place`."""
    docs: dict[str, str] = {}
    contracts = [describe(service) for service in services]
    methods = [method for contract in contracts for method in contract.methods]
    messages, enums = closure(kind for method in methods for kind in (method.request, method.response))
    for message in messages:
        docs[message.name] = message.doc
        docs |= {f"{message.name}.{field.name}": field.doc for field in message.fields}
    docs |= {enum.name: enum.doc for enum in enums}
    for contract in contracts:
        name = contract.name.rpartition(".")[2]
        docs[name] = contract.doc
        for method in contract.methods:
            docs[f"{name}.{method.name}"] = "\n".join(filter(None, [method.doc, _facts(method)]))
            if method.max_batch:
                text = f"Many {method.name} at once, up to {method.max_batch} in a frame, each with its own outcome."
                docs[f"{name}.{method.name}Batch"] = text
                request_name, reply_name = batch_names(method)
                docs[request_name] = "`traceparents` is empty or as long as `requests`."
                docs[reply_name] = "Outcomes of some of a batch's requests; `reply_index` is as long as `replies`."
    return docs


def _facts(method: Method) -> str:
    facts = [f"HTTP: {method.http.verb} {method.http.path}"] if method.http else []
    facts += ["Needs no token."] if method.public else []
    facts += ["Only within the system."] if method.internal else []
    facts += [f"Needs a role: {', '.join(method.roles)}."] if method.roles else []
    return "\n".join(facts)


def _text(file: descriptor_pb2.FileDescriptorProto, docs: dict[str, str]) -> str:
    lines = ['syntax = "proto3";', "", f"package {file.package};", ""]
    lines += [f'import "{path}";' for path in file.dependency] + ([""] if file.dependency else [])
    for service in file.service:
        lines += [*_comment(docs.get(service.name, ""), ""), f"service {service.name} {{"]
        for method in service.method:
            lines += _comment(docs.get(f"{service.name}.{method.name}", ""), "  ")
            lines += _method(file.package, method)
        lines += ["}", ""]
    for enum in file.enum_type:
        lines += [*_comment(docs.get(enum.name, ""), ""), f"enum {enum.name} {{"]
        lines += [f"  {value.name} = {value.number};" for value in enum.value]
        lines += [f"  reserved {span.start};" for span in enum.reserved_range]
        lines += [f'  reserved "{name}";' for name in enum.reserved_name] + ["}", ""]
    for message in file.message_type:
        lines += [*_comment(docs.get(message.name, ""), ""), f"message {message.name} {{"]
        lines += _fields(file.package, message, docs)
        lines += [f"  reserved {span.start};" for span in message.reserved_range]
        lines += [f'  reserved "{name}";' for name in message.reserved_name] + ["}", ""]
    return "\n".join(lines)


def _comment(text: str, indent: str) -> list[str]:
    return [f"{indent}// {line}".rstrip() for line in text.splitlines()]


def _method(package: str, method: descriptor_pb2.MethodDescriptorProto) -> list[str]:
    taken = ("stream " if method.client_streaming else "") + _local(package, method.input_type)
    given = ("stream " if method.server_streaming else "") + _local(package, method.output_type)
    head = f"  rpc {method.name}({taken}) returns ({given})"
    if method.options.idempotency_level == descriptor_pb2.MethodOptions.IDEMPOTENT:
        return [f"{head} {{", "    option idempotency_level = IDEMPOTENT;", "  }"]
    return [f"{head};"]


def _fields(package: str, message: descriptor_pb2.DescriptorProto, docs: dict[str, str]) -> Iterator[str]:
    entries = {f".{package}.{message.name}.{entry.name}": entry for entry in message.nested_type}
    for field in sorted(message.field, key=lambda field: field.number):
        yield from _comment(docs.get(f"{message.name}.{field.name}", ""), "  ")
        if (entry := entries.get(field.type_name)) is not None:
            kind = f"map<string, {_kind(package, entry.field[1])}>"
        else:
            repeated = "repeated " if field.label == _Field.LABEL_REPEATED else ""
            kind = ("optional " if field.proto3_optional else repeated) + _kind(package, field)
        # JSON keeps Python's names; proto's own rule would make orderId of order_id.
        named = f" [json_name = {json.dumps(field.json_name)}]" if field.json_name != _default_json(field.name) else ""
        yield f"  {kind} {field.name} = {field.number}{named};"


def _kind(package: str, field: _Field) -> str:
    return _SCALARS.get(field.type) or _local(package, field.type_name)


def _local(package: str, name: str) -> str:
    """Types of the same package without it, others in full from the root."""
    local = name.removeprefix(f".{package}.")
    return local if "." not in local else name


def _default_json(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest)
