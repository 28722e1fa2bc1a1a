"""From the parts of an HTTP request to the method's `Message`, and the reason when it cannot be done.

The mapping follows `google.api.http`: names between braces come from the path, `Header` fields from their header, and
everything else from the JSON body (POST, PUT, PATCH) or the query (GET, DELETE). A `Subject` field may be left out. A
`RawBody` field is the body as it came, not looked into. Nothing is taken from two places and nothing unknown is
ignored: a misspelt field is an error, not a silent default.

All of it is worked out once per route. A request then costs one typed msgspec decode, plus one conversion when some
fields arrive as text.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Sequence
from enum import Enum
from typing import NotRequired, TypedDict, cast, get_args, get_origin
from urllib.parse import unquote_plus

import msgspec
import msgspec.inspect

from dougong.contract import HttpRule, Message, Method, codec, field_sources
from dougong.errors import Invalid
from dougong.http.asgi import Headers

__all__ = ["Binder", "has_body"]

PARAMETERS_MAX = 100
NAME_SHOWN_MAX = 100
_AT = re.compile(r" - at (?:`(?P<path>[^`]*)`|(?P<odd>.*))$")
_NAMED = re.compile(r"^Object (?:contains (?P<unknown>unknown)|missing required) field `(?P<name>.*)`$", re.DOTALL)
_SCALARS = (str, int, float, bool)


def has_body(verb: str) -> bool:
    """Whether a verb's fields come from the body."""
    return verb in {"POST", "PUT", "PATCH"}


class Binder:
    """Binds requests of one method."""

    __slots__ = (
        "_body_optional",
        "_decode_body",
        "_headers",
        "_message",
        "_places",
        "_query",
        "_query_lists",
        "_raw",
        "_subject_missing",
        "_text",
        "_validate",
        "_whole_from_body",
        "encode",
        "header_names",
        "params",
        "takes_body",
    )

    def __init__(self, method: Method, *, whole: bool = False) -> None:
        """`whole`: all of the request is one JSON object, for transports without paths and headers.

        Raises TypeError naming the method when its request cannot arrive over HTTP.
        """
        rule = method.http
        assert rule is not None, f"{method.path} has no http rule"
        if whole:
            rule = HttpRule("POST", rule.path, ())
        message = method.request
        hints = typing.get_type_hints(message, include_extras=True)
        defaults = {info.name: info for info in msgspec.structs.fields(message)}
        where = f"{method.service}.{method.attribute}"

        self._message = message
        sources = field_sources(message)
        self._raw = next((name for name, source in sources.items() if source == "raw"), "")
        # msgspec checked all bounds while it decoded; only an int without bounds may still be beyond 64 bits.
        self._validate = codec(message).validate_json if self._raw or _has_loose_int(message) else None
        self.params = rule.params
        self.takes_body = has_body(rule.verb)
        headers = {
            name: source.partition(":")[2]
            for name, source in sources.items()
            if source.startswith("header:") and name not in rule.params and not whole
        }
        self._headers = tuple((name, header.lower().encode("ascii"), header) for name, header in headers.items())
        self.header_names = frozenset(header for _, header, _ in self._headers)
        self.encode = msgspec.json.Encoder().encode
        others = [n for n in message.__struct_fields__ if n not in rule.params and n not in headers and n != self._raw]
        if self._raw and (not self.takes_body or others):
            raise TypeError(
                f"{where}: {self._raw!r} is the whole body, so the verb needs one and "
                f"{', '.join(map(repr, others)) or 'the rest'} must come from path or headers"
            )
        if method.subject_field in rule.params:
            raise TypeError(f"{where}: {method.subject_field!r} comes from the token, so it cannot be in the path")

        as_text = [*rule.params, *headers, *([] if self.takes_body else others)]
        for name in as_text:
            if not _from_text(hints[name], allow_list=name in others):
                raise TypeError(
                    f"{where}: field {name!r} ({hints[name]!r}) cannot be written as text in a path, query or header; "
                    f"use a verb with a body"
                )
        self._query = {} if self.takes_body else {defaults[name].encode_name: name for name in others}
        self._query_lists = frozenset(name for name in self._query.values() if _is_list(hints[name]))
        self._places = dict.fromkeys(rule.params, "path") | dict.fromkeys(self._query.values(), "query")
        self._text = _texts(f"{message.__name__}Text", as_text, hints, defaults, method.subject_field)
        self._subject_missing = method.subject_field if method.subject_field in as_text else ""
        self._whole_from_body = self.takes_body and not as_text and _optional(defaults, method.subject_field)
        body = (
            message
            if self._whole_from_body
            else _struct(
                f"{message.__name__}Body", others if self.takes_body else [], hints, defaults, method.subject_field
            )
        )
        self._decode_body = msgspec.json.Decoder(body).decode
        self._body_optional = not any(field.required for field in msgspec.structs.fields(body))

    def bind(self, values: Sequence[str], query: bytes, headers: Headers, body: bytes) -> Message:
        """The request. `values` are the path parameters' in order, `body` is empty for verbs without one.

        Raises `Invalid` with fields `field`, `reason` and `source`, and a code that says which kind of wrong it is.
        """
        if self.takes_body:
            if query:
                self._refuse_query(query)
            request: msgspec.Struct
            if self._raw:
                request = self._message(**{self._raw: body}, **self._from_text(values, b"", headers))
            elif self._whole_from_body:
                request = self._body(body)
            else:
                parts = msgspec.structs.asdict(self._body(body))
                if values or self._headers:
                    parts.update(self._from_text(values, b"", headers))
                request = self._message(**parts)
        else:
            request = self._message(**self._from_text(values, query, headers))
        assert isinstance(request, Message)
        if self._validate is not None:
            try:
                self._validate(request)
            except Invalid as error:
                field = str(error.fields.get("field", ""))
                reason = error.message.removeprefix(f"{field} ")
                raise _field_error(field, reason, self._source(field), code=error.code) from error
        return request

    def _body(self, body: bytes) -> msgspec.Struct:
        if not body:
            if not self._body_optional:
                raise Invalid(
                    "the body is missing: send a JSON object", code="missing_body", reason="missing", source="body"
                )
            body = b"{}"
        try:
            return self._decode_body(body)
        except msgspec.ValidationError as error:
            raise _validation_error(str(error), "body") from error
        except UnicodeDecodeError as error:
            raise Invalid("the body is not UTF-8", code="bad_utf8", source="body") from error
        except msgspec.DecodeError as error:
            raise Invalid(f"the body is not JSON: {error}", code="malformed_json", source="body") from error
        except RecursionError as error:
            raise Invalid("the body is nested too deeply", code="too_deep", source="body") from error

    def _from_text(self, values: Sequence[str], query: bytes, headers: Headers) -> dict[str, object]:
        text: dict[str, object] = dict(zip(self.params, values, strict=True))
        for name, header, shown in self._headers:
            value = headers.get(header)
            if value is not None:
                text[name] = _header_text(value, shown)
        if query:
            self._parse_query(query, text)
        if self._subject_missing:
            text.setdefault(self._subject_missing, "")
        try:
            return msgspec.convert(text, self._text, strict=False)
        except msgspec.ValidationError as error:
            raise self._relocated(_validation_error(str(error), "query")) from error

    def _parse_query(self, query: bytes, text: dict[str, object]) -> None:
        parts = query.split(b"&", PARAMETERS_MAX)
        if len(parts) > PARAMETERS_MAX:
            raise Invalid(f"more than {PARAMETERS_MAX} query parameters", code="too_many_parameters", source="query")
        for part in parts:
            if not part:
                continue
            raw_name, _, raw_value = part.partition(b"=")
            try:
                name = unquote_plus(raw_name.decode("utf-8"), errors="strict")
                value = unquote_plus(raw_value.decode("utf-8"), errors="strict")
            except UnicodeDecodeError as error:
                raise Invalid("the query is not UTF-8", code="bad_utf8", source="query") from error
            field = self._query.get(name)
            if field is None:
                raise _unknown_parameter(name)
            if field in self._query_lists:
                cast("list[str]", text.setdefault(field, [])).append(value)
            elif field in text:
                raise _field_error(name, "given more than once", "query", code="duplicate_parameter")
            else:
                text[field] = value

    def _refuse_query(self, query: bytes) -> None:
        for part in query.split(b"&", 1):
            if part:
                name = unquote_plus(part.partition(b"=")[0].decode("utf-8", "replace"), errors="replace")
                raise _unknown_parameter(name, "this method takes its fields from the body")

    def _source(self, field: str) -> str:
        top = re.split(r"[.\[]", field, maxsplit=1)[0]
        if any(name == top for name, _, _ in self._headers):
            return "header"
        return self._places.get(top, "body")

    def _relocated(self, error: Invalid) -> Invalid:
        """msgspec saw one object; the reader sent a path, a query and headers."""
        field = str(error.fields["field"])
        source = self._source(field)
        for name, _, shown in self._headers:
            if name == field:
                code = "missing_header" if error.code == "missing_field" else error.code
                return _field_error(shown, str(error.fields["reason"]), "header", code=code)
        if source == "query" and error.code == "missing_field":
            return _field_error(field, "missing", "query", code="missing_parameter")
        return _field_error(field, str(error.fields["reason"]), source, code=error.code)


def _struct(
    name: str,
    fields: Sequence[str],
    hints: dict[str, object],
    infos: dict[str, msgspec.structs.FieldInfo],
    subject: str,
) -> type[msgspec.Struct]:
    """A struct of some of a message's fields: what may come from one place."""
    required: list[tuple[str, type]] = []
    optional: list[tuple[str, type, object]] = []
    for field in fields:
        kind = cast(type, hints[field])
        info = infos[field]
        if info.default_factory is not msgspec.NODEFAULT:
            optional.append((field, kind, msgspec.field(default_factory=info.default_factory)))
        elif info.default is not msgspec.NODEFAULT:
            optional.append((field, kind, info.default))
        elif field == subject:
            optional.append((field, kind, ""))
        else:
            required.append((field, kind))
    return msgspec.defstruct(
        name,
        [*required, *optional],
        kw_only=True,
        frozen=True,
        forbid_unknown_fields=True,
        gc=False,
        rename={field: infos[field].encode_name for field in fields},
    )


def _texts(
    name: str,
    fields: Sequence[str],
    hints: dict[str, object],
    infos: dict[str, msgspec.structs.FieldInfo],
    subject: str,
) -> type[dict[str, object]]:
    """The type of a dict of the fields that arrive as text. Those with a default may be absent."""
    kinds: dict[str, object] = {}
    for field in fields:
        needed = infos[field].required or field == subject
        kinds[field] = hints[field] if needed else NotRequired[hints[field]]
    return cast("type[dict[str, object]]", TypedDict(name, kinds))  # type: ignore[operator]


def _has_loose_int(kind: object, seen: frozenset[object] = frozenset()) -> bool:
    """Whether a type holds an int, at any depth, whose declared bounds do not keep it within 64 bits."""
    info = msgspec.inspect.type_info(kind) if not isinstance(kind, msgspec.inspect.Type) else kind
    match info:
        case msgspec.inspect.IntType(gt=gt, ge=ge, lt=lt, le=le):
            return (gt is None and ge is None) or (lt is None and le is None)
        case msgspec.inspect.StructType(cls=cls, fields=fields):
            return cls not in seen and any(_has_loose_int(field.type, seen | {cls}) for field in fields)
        case msgspec.inspect.ListType(item_type=item) | msgspec.inspect.VarTupleType(item_type=item):
            return _has_loose_int(item, seen)
        case msgspec.inspect.TupleType(item_types=items) | msgspec.inspect.UnionType(types=items):
            return any(_has_loose_int(item, seen) for item in items)
        case msgspec.inspect.DictType(key_type=key, value_type=value):
            return _has_loose_int(key, seen) or _has_loose_int(value, seen)
        case msgspec.inspect.Metadata(type=inner):
            return _has_loose_int(inner, seen)
        case _:
            return False


def _optional(infos: dict[str, msgspec.structs.FieldInfo], field: str) -> bool:
    return not field or not infos[field].required


def _from_text(kind: object, *, allow_list: bool) -> bool:
    """Whether values of a type can be written in a URL or header."""
    origin = get_origin(kind)
    if origin is typing.Annotated:
        return _from_text(get_args(kind)[0], allow_list=allow_list)
    if origin in {typing.Union, types.UnionType}:
        return all(k is type(None) or _from_text(k, allow_list=False) for k in get_args(kind))
    if origin in {list, tuple}:
        return allow_list and all(k is ... or _from_text(k, allow_list=False) for k in get_args(kind))
    return isinstance(kind, type) and (kind in _SCALARS or issubclass(kind, Enum))


def _is_list(kind: object) -> bool:
    if get_origin(kind) is typing.Annotated:
        return _is_list(get_args(kind)[0])
    return get_origin(kind) in {list, tuple}


def _header_text(value: bytes, shown: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _field_error(shown, "is not UTF-8", "header", code="bad_utf8") from error


def _unknown_parameter(name: str, why: str = "unknown") -> Invalid:
    return _field_error(name[:NAME_SHOWN_MAX], why, "query", code="unknown_parameter")


def _validation_error(text: str, source: str) -> Invalid:
    """msgspec's words, taken apart: ``Expected `int` >= 1 - at `$.lines[0].quantity` ``."""
    path = ""
    at = _AT.search(text)
    if at is not None:
        text = text[: at.start()]
        path = (at["path"] if at["path"] is not None else at["odd"]).removeprefix("$").removeprefix(".")
    named = _NAMED.match(text)
    if named is not None:
        field = f"{path}.{named['name']}" if path else named["name"]
        if named["unknown"]:
            return _field_error(field[:NAME_SHOWN_MAX], "unknown field", source, code="unknown_field")
        return _field_error(field, "missing", source, code="missing_field")
    return _field_error(path, text[:1].lower() + text[1:], source, code="invalid_field")


def _field_error(field: str, reason: str, source: str, *, code: str) -> Invalid:
    where = f"{field}: " if field else ""
    return Invalid(f"{where}{reason} (in the {source})", code=code, field=field, reason=reason, source=source)
