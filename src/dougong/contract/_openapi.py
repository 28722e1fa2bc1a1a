"""OpenAPI 3.1 of the methods that have an HTTP rule: what `/openapi.json` serves and Swagger UI shows.

Where a field of the request travels follows from the rule alone: fields named in the path are path parameters,
`Header` fields are headers, a `RawBody` field is the body whatever it says, and the rest is the JSON body, or the query
for verbs without one (GET, DELETE).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from dougong.contract._declare import Message, Method, Service, describe, field_sources
from dougong.contract._shape import FieldShape, shape_of

__all__ = ["openapi"]

Json = dict[str, object]

_REF = "#/components/schemas/{name}"
_PROBLEM: Json = {
    "title": "Problem",
    "description": "What went wrong and what to do about it (RFC 9457).",
    "type": "object",
    "properties": {
        "type": {"type": "string", "description": "Stands for the code as a URI; compare `code` instead."},
        "title": {"type": "string", "description": "The family of errors, in words."},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "What, where and the remedy, for people."},
        "code": {"type": "string", "description": "Stable name of the error, for machines."},
        "instance": {"type": "string", "description": "The request's id, to report it with."},
        "fields": {"type": "object", "description": "The values in question."},
        "errors": {"type": "array", "items": {"type": "object"}, "description": "One entry per wrong field."},
    },
    "required": ["type", "title", "status", "detail", "code"],
}


def openapi(
    services: Iterable[type[Service]], *, title: str, version: str, servers: Sequence[str] = ()
) -> dict[str, object]:
    """The document, as JSON-ready dicts. `servers` are base URLs; none: wherever the document came from.

    TypeError when two methods share verb and path, or a field cannot travel where its rule puts it.
    """
    contracts = [describe(service) for service in services]
    methods = [method for contract in contracts for method in contract.methods if method.http is not None]
    schemas = _schemas(methods)
    paths: dict[str, dict[str, object]] = {}
    for method in methods:
        assert method.http is not None
        operations = paths.setdefault(method.http.path, {})
        if method.http.verb.lower() in operations:
            raise TypeError(f"{method.service}.{method.attribute}: {method.http.verb} {method.http.path} is taken")
        operations[method.http.verb.lower()] = _operation(method, schemas)
    document: dict[str, object] = {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "tags": [
            {"name": contract.name.rpartition(".")[2], "description": contract.doc}
            for contract in contracts
            if any(method.http is not None for method in contract.methods)
        ],
        "components": {
            "schemas": {**schemas, "Problem": _PROBLEM},
            "responses": {
                "Problem": {
                    "description": "Refused or failed; `code` says why.",
                    "content": {"application/problem+json": {"schema": {"$ref": _REF.format(name="Problem")}}},
                }
            },
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
        "security": [{"bearer": []}],
    }
    if servers:
        document["servers"] = [{"url": url} for url in servers]
    return document


def _schemas(methods: Sequence[Method]) -> dict[str, Any]:
    """JSON Schema of every message, by name; msgspec writes them, bounds and docstrings included."""
    kinds = list(dict.fromkeys(kind for method in methods for kind in (method.request, method.response)))
    if any(kind.__name__ == "Problem" for kind in kinds):
        raise TypeError("a message named Problem would hide the schema of errors; rename it")
    _, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    return components


def _operation(method: Method, schemas: Mapping[str, Any]) -> Json:
    assert method.http is not None
    summary, _, description = method.doc.partition("\n")
    operation: Json = {
        "operationId": f"{method.service.rpartition('.')[2]}_{method.name}",
        "tags": [method.service.rpartition(".")[2]],
        "summary": summary,
        "responses": _responses(method),
    }
    notes = [description.strip()]
    notes += ["Only for callers within the system."] if method.internal else []
    notes += [f"Needs one of the roles {', '.join(method.roles)}."] if method.roles else []
    if text := "\n\n".join(filter(None, notes)):
        operation["description"] = text
    if method.public:
        operation["security"] = []
    own = schemas[method.request.__name__]
    sources, with_body = field_sources(method.request), method.http.verb in ("POST", "PUT", "PATCH")
    parameters: list[Json] = []
    body: dict[str, FieldShape] = {}
    for field in shape_of(method.request).fields:
        schema = _told(method, field, own["properties"][field.json_name])
        header = sources.get(field.name, "").removeprefix("header:")
        if field.name in method.http.params:
            parameters.append(
                {"name": field.name, "in": "path", "required": True, "schema": _in_text(method, field, schema)}
            )
        elif sources.get(field.name, "").startswith("header:"):
            parameters.append(_parameter(header, "header", field, own, _in_text(method, field, schema)))
        elif sources.get(field.name) == "raw":
            # What is in it is somebody else's to say; msgspec's schema of bytes would be base64 text.
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": {}}}}
        elif with_body:
            body[field.json_name] = field
        else:
            parameters.append(_parameter(field.json_name, "query", field, own, _in_text(method, field, schema)))
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = _body(method, body, own)
    return operation


def _parameter(name: str, place: str, field: FieldShape, own: Mapping[str, Any], schema: Json) -> Json:
    return {"name": name, "in": place, "required": field.json_name in own.get("required", ()), "schema": schema}


def _in_text(method: Method, field: FieldShape, schema: Json) -> Json:
    """Parameters are text: scalars, and lists of them in the query."""
    if field.value.kind in ("message", "bytes") or field.form == "map":
        raise TypeError(
            f"{method.service}.{method.attribute}: {method.request.__name__}.{field.name} cannot travel outside a "
            "body; use POST, PUT or PATCH"
        )
    return schema


def _told(method: Method, field: FieldShape, schema: Json) -> Json:
    if field.name != method.subject_field:
        return schema
    others = f" Callers with the role {' or '.join(method.on_behalf)} may name another." if method.on_behalf else ""
    return {**schema, "description": f"Left out: the caller.{others}"}


def _body(method: Method, fields: Mapping[str, FieldShape], own: Mapping[str, Any]) -> Json:
    """The message itself where all of it travels in the body, else an object of what is left."""
    schema: Json = {"$ref": _REF.format(name=method.request.__name__)}
    required = [name for name in own.get("required", ()) if name in fields]
    if len(fields) < len(own["properties"]):
        properties = {name: _told(method, field, own["properties"][name]) for name, field in fields.items()}
        schema = {"type": "object", "properties": properties, "additionalProperties": False}
        if required:
            schema["required"] = required
    return {"required": bool(required), "content": {"application/json": {"schema": schema}}}


def _responses(method: Method) -> Json:
    problem: Json = {"$ref": "#/components/responses/Problem"}
    media = "application/x-ndjson" if method.server_streaming else "application/json"
    text = "One JSON object per line, as they come." if method.server_streaming else _first_line(method.response)
    schema: Json = {"$ref": _REF.format(name=method.response.__name__)}
    responses: Json = {
        "200": {"description": text, "content": {media: {"schema": schema}}},
        "4XX": problem,
        "5XX": problem,
    }
    if not method.public:
        responses["401"] = problem
        responses["403"] = problem
    return responses


def _first_line(message: type[Message]) -> str:
    return re.split(r"\n\s*\n", shape_of(message).doc)[0] or message.__name__
