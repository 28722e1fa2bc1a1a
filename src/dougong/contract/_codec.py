"""Messages to protobuf bytes and back, by code written for each type.

The generated code sets attributes on upb messages (`add()` for nested ones) and calls the Struct with keywords: of the
ways tried, the fastest. It keeps no track of where it is; when it fails, a slow walk over the same message finds the
field and says what is wrong with it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, Generic, NoReturn, TypeVar, cast

import msgspec
from google.protobuf.message import DecodeError, EncodeError
from google.protobuf.message import Message as ProtoMessage

from dougong.contract._bounds import compile_checks, first_violation
from dougong.contract._declare import Message
from dougong.contract._descriptors import wire_classes
from dougong.contract._lock import numbering
from dougong.contract._shape import EnumShape, FieldShape, MessageShape, shape_of
from dougong.contract._source import Source
from dougong.errors import Invalid

__all__ = [
    "WRITE_FAILURES",
    "Codec",
    "Mapper",
    "codec",
    "explain_read",
    "explain_write",
    "malformed",
    "too_deep",
]

M = TypeVar("M", bound=Message)


WRITE_FAILURES = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
"""What generated code and upb raise on values the wire cannot carry."""


class Absent(Exception):
    """Something required did not come, or too much came; the slow walk says what."""


def _absent() -> NoReturn:
    raise Absent


class Mapper:
    """Generated functions between Structs and protobuf messages for a set of types.

    `write[T](message, proto)` fills a fresh proto; `read[T](proto)` makes the Struct. Either may raise anything on bad
    input: callers catch, and ask `explain_write` / `explain_read` for the error to show.
    """

    def __init__(self, messages: Iterable[MessageShape], enums: Iterable[EnumShape]) -> None:
        shapes = list(messages)
        numbers = numbering(shapes, list(enums))
        self.to_number: dict[type, dict[Any, int]] = {}
        self.from_number: dict[type, dict[int, Any]] = {}
        for kind, by_name in numbers.items():
            if not issubclass(kind, Message):
                members = {kind.__members__[name]: number for name, number in by_name.items()}  # type: ignore[attr-defined]
                self.to_number[kind] = members
                self.from_number[kind] = {number: member for member, number in members.items()}
        self._source = Source()
        self._index = {shape.type: index for index, shape in enumerate(shapes)}
        self._names: dict[int, str] = {}
        for shape in shapes:
            self._write(shape)
            self._read(shape)
        namespace = self._source.compile("codec")
        self.write: dict[type, Callable[[Any, Any], None]] = {
            kind: namespace[f"write_{index}"] for kind, index in self._index.items()
        }
        self.read: dict[type, Callable[[Any], Any]] = {
            kind: namespace[f"read_{index}"] for kind, index in self._index.items()
        }

    def _name(self, value: object) -> str:
        """One name per value, however often it is used."""
        if id(value) not in self._names:  # the source holds the value, so its id stays its own
            self._names[id(value)] = self._source.name(value)
        return self._names[id(value)]

    def _write(self, shape: MessageShape) -> None:
        self._source.line(0, f"def write_{self._index[shape.type]}(m, p):")
        self._source.line(1, "pass")
        self._write_fields(shape, "m", "p", 1)

    def _write_fields(self, shape: MessageShape, m: str, p: str, depth: int) -> None:
        for field in shape.fields:
            self._write_field(field, m, p, depth)

    def _write_field(self, field: FieldShape, m: str, p: str, depth: int) -> None:
        line, name = self._source.line, field.name
        value = field.value
        encoded = f"{self._name(self.to_number[value.type])}[{{}}]" if value.kind == "enum" else "{}"
        nested = f"write_{self._index[value.type]}" if value.kind == "message" else ""
        if field.form in ("one", "optional"):
            if field.form == "optional":
                line(depth, f"if (v := {m}.{name}) is not None:")
                depth += 1
            elif nested:
                line(depth, f"v = {m}.{name}")
            elif field.zero_default and value.kind != "double":  # -0.0 == 0.0, and is not the same
                line(depth, f"if (v := {m}.{name}) != {field.default!r}:")
                depth += 1
            else:
                line(depth, f"{p}.{name} = {encoded.format(f'{m}.{name}')}")
                return
            if nested:
                line(depth, f"q = {p}.{name}")
                line(depth, "q.SetInParent()")  # reading a message field alone does not make it present
                line(depth, f"{nested}(v, q)")
            else:
                line(depth, f"{p}.{name} = {encoded.format('v')}")
        elif field.form == "map":
            if nested:
                line(depth, f"q = {p}.{name}")
                line(depth, f"for k, v in {m}.{name}.items():")
                line(depth + 1, f"{nested}(v, q[k])")
            elif value.kind == "enum":
                line(depth, f"{p}.{name}.update({{k: {encoded.format('v')} for k, v in {m}.{name}.items()}})")
            else:
                line(depth, f"{p}.{name}.update({m}.{name})")
        elif nested:
            line(depth, f"add = {p}.{name}.add")
            line(depth, f"for x in {m}.{name}:")
            if _leaf(inner := shape_of(value.type)):
                line(depth + 1, "q = add()")
                self._write_fields(inner, "x", "q", depth + 1)
            else:
                line(depth + 1, f"{nested}(x, add())")
        elif value.kind == "enum":
            line(depth, f"{p}.{name}.extend([{encoded.format('x')} for x in {m}.{name}])")
        else:
            line(depth, f"{p}.{name}.extend({m}.{name})")

    def _read(self, shape: MessageShape) -> None:
        line = self._source.line
        line(0, f"def read_{self._index[shape.type]}(p):")
        for index, field in enumerate(shape.fields):
            if field.form in ("list", "tuple", "map"):
                line(1, f"f{index} = p.{field.name}")
                line(1, f"if len(f{index}) > {field.max_items}: {self._name(_absent)}()")
        line(1, f"return {self._built(shape, 'p')}")

    def _built(self, shape: MessageShape, p: str) -> str:
        arguments = (f"{field.name}={self._expression(field, p, index)}" for index, field in enumerate(shape.fields))
        return f"{self._name(shape.type)}({', '.join(arguments)})"

    def _expression(self, field: FieldShape, p: str, index: int) -> str:
        value = field.value
        if field.form == "map":
            item = self._item(value, "v")
            return f"dict(f{index}.items())" if item == "v" else f"{{k: {item} for k, v in f{index}.items()}}"
        if field.form in ("list", "tuple"):
            item = self._item(value, "x")
            listed = f"f{index}[:]" if item == "x" else f"[{item} for x in f{index}]"
            return listed if field.form == "list" else f"tuple({listed})"
        got, came = self._item(value, f"{p}.{field.name}"), f"{p}.HasField({field.name!r})"
        if field.form == "optional":
            return f"({got} if {came} else None)"
        default = self._default(field)
        if value.kind == "message":
            return f"({got} if {came} else {default or f'{self._name(_absent)}()'})"
        if field.presence:
            return f"({got} if {came} else {default})"
        return got

    def _default(self, field: FieldShape) -> str:
        if field.default is msgspec.NODEFAULT:
            return ""
        return self._name(field.default) + ("()" if field.factory else "")

    def _item(self, value: Any, expression: str) -> str:
        if value.kind == "enum":
            return f"{self._name(self.from_number[value.type])}[{expression}]"
        if value.kind != "message":
            return expression
        inner = shape_of(value.type)
        if expression == "x" and _leaf(inner):
            return self._built(inner, "x")
        return f"read_{self._index[value.type]}({expression})"


def _leaf(shape: MessageShape) -> bool:
    """Small enough to be written out where it is used: nothing nested, nothing repeated."""
    return all(f.form in ("one", "optional") and f.value.kind != "message" for f in shape.fields)


def malformed(name: str, error: Exception) -> Invalid:
    """Bytes that are no such message at all."""
    if "MaxDepth" in str(error):
        return too_deep(name)
    return Invalid(
        f"not a {name} in protobuf wire format ({error}); check that both sides speak the same contract",
        code="malformed",
        type=name,
    )


def too_deep(name: str) -> Invalid:
    """Protobuf readers stop at 100 levels, ours included."""
    return Invalid(f"a {name} is nested deeper than 100 levels; flatten it", code="too_deep", type=name)


def explain_read(mapper: Mapper, kind: type[Message], proto: Any, path: str = "") -> Invalid | None:
    """Why `read` failed: the first field that is missing, unknown or too long."""
    for field in shape_of(kind).fields:
        here, value = f"{path}{field.name}", getattr(proto, field.name)
        if field.form in ("one", "optional"):
            if (field.presence or field.value.kind == "message") and not proto.HasField(field.name):
                if field.form == "one" and field.default is msgspec.NODEFAULT:
                    return Invalid(f"{here} is required", code="invalid_field", field=here)
                continue
            items: list[tuple[str, Any]] = [(here, value)]
        elif len(value) > field.max_items:
            text = f"{here} must have at most {field.max_items} entries, not {len(value)}"
            return Invalid(text, code="invalid_field", field=here)
        elif field.form == "map":
            items = [(f"{here}[{key!r}]", item) for key, item in value.items()]
        else:
            items = [(f"{here}[{index}]", item) for index, item in enumerate(value)]
        if field.value.kind == "enum":
            known = mapper.from_number[field.value.type]
            for where, item in items:
                if item not in known:
                    text = f"{where} is required" if item == 0 else f"{where} has the unknown value {item}"
                    return Invalid(
                        f"{text}; one of {', '.join(known.values())} is known", code="invalid_field", field=where
                    )
        elif field.value.kind == "message":
            for where, item in items:
                if found := explain_read(mapper, field.value.type, item, f"{where}."):
                    return found
    return None


def explain_write(mapper: Mapper, kind: type[Message], message: Any, path: str = "") -> Invalid | TypeError | None:
    """Why `write` failed: a value the wire cannot carry (Invalid), or one of a wrong type (TypeError, a bug here)."""
    if not isinstance(message, kind):
        where = path.rstrip(".") or "the message"
        return TypeError(f"{where} must be {kind.__name__}, not {type(message).__name__}")
    for field in shape_of(kind).fields:
        here, value = f"{path}{field.name}", getattr(message, field.name)
        items: list[tuple[str, Any]]
        if field.form in ("one", "optional"):
            items = [] if value is None and field.form == "optional" else [(here, value)]
        elif field.form == "map":
            if not isinstance(value, dict):
                return TypeError(f"{here} must be dict, not {type(value).__name__}")
            items = [(f"{here}[{key!r}]", item) for key, item in value.items()]
            for key in value:
                if found := _unwritable(mapper, f"{here} key {key!r}", "string", str, key):
                    return found
        elif not isinstance(value, (list, tuple)):
            return TypeError(f"{here} must be list or tuple, not {type(value).__name__}")
        else:
            items = [(f"{here}[{index}]", item) for index, item in enumerate(value)]
        for where, item in items:
            if field.value.kind == "message":
                found = explain_write(mapper, field.value.type, item, f"{where}.")
            else:
                found = _unwritable(mapper, where, field.value.kind, field.value.type, item)
            if found:
                return found
    return None


def _unwritable(mapper: Mapper, where: str, kind: str, wanted: type[Any], value: Any) -> Invalid | TypeError | None:
    if kind == "enum":
        if isinstance(value, str) and value in mapper.to_number[wanted]:
            return None
        known = ", ".join(map(str, mapper.to_number[wanted]))
        return Invalid(f"{where} must be one of {known}", code="invalid_field", field=where)
    if not isinstance(value, (int, float) if wanted is float else wanted):
        return TypeError(f"{where} must be {wanted.__name__}, not {type(value).__name__}")
    if kind == "int64" and not -(2**63) <= value < 2**63:
        return Invalid(f"{where} does not fit 64 bits", code="invalid_field", field=where)
    if kind == "string" and not _is_text(value):
        return Invalid(f"{where} holds half a surrogate pair, which is no text", code="invalid_field", field=where)
    if kind == "double" and isinstance(value, int):
        try:
            float(value)
        except OverflowError:
            return Invalid(f"{where} does not fit a double", code="invalid_field", field=where)
    return None


def _is_text(value: object) -> bool:
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True


class Codec(Generic[M]):
    """One message type's way to bytes and back, and its bounds. Get it from `codec`, which keeps it."""

    __slots__ = ("_check", "_check_integers", "_mapper", "_proto", "_read", "_write", "has_bounds", "type")

    def __init__(self, message_type: type[M]) -> None:
        messages, enums, classes = wire_classes([message_type])
        self.type = message_type
        self._mapper = Mapper(messages, enums)
        self._proto = cast("Callable[[], ProtoMessage]", classes[message_type.__name__])
        self._write = self._mapper.write[message_type]
        self._read = self._mapper.read[message_type]
        self._check = compile_checks(messages, integers=False).get(message_type)
        self._check_integers = compile_checks(messages, integers=True).get(message_type)
        self.has_bounds = self._check is not None
        """False: `validate` has nothing to do for this type."""

    def encode(self, message: M) -> bytes:
        """Protobuf bytes. Invalid (`invalid_field`) for what the wire cannot carry; TypeError for wrong types."""
        proto = self._proto()
        try:
            self._write(message, proto)
            return proto.SerializeToString()
        except WRITE_FAILURES as error:
            raise explain_write(self._mapper, self.type, message) or error from None
        except (EncodeError, RecursionError):
            raise too_deep(self.type.__name__) from None

    def decode(self, data: bytes) -> M:
        """The message in `data`. Invalid: `malformed` for bytes that are none, `invalid_field` naming a field.

        Bounds are not checked: that is `validate`. Fields this contract does not know are dropped.
        """
        proto = self._proto()
        try:
            proto.ParseFromString(data)
        except DecodeError as error:
            raise malformed(self.type.__name__, error) from None
        try:
            return cast(M, self._read(proto))
        except (Absent, KeyError) as error:
            raise explain_read(self._mapper, self.type, proto) or error from None

    def validate(self, message: M) -> None:
        """Check bounds, as msgspec does when it decodes JSON. Invalid (`invalid_field`) names the first one broken."""
        try:
            if (check := self._check) is not None and not check(message):
                self._refuse(message, integers=False)
        except RecursionError:
            raise too_deep(self.type.__name__) from None

    def validate_json(self, message: M) -> None:
        """The same and that every int fits 64 bits: what JSON lets through and neither wire nor databases carry."""
        try:
            if (check := self._check_integers) is not None and not check(message):
                self._refuse(message, integers=True)
        except RecursionError:
            raise too_deep(self.type.__name__) from None

    def _refuse(self, message: M, *, integers: bool) -> NoReturn:
        found = first_violation(message, integers=integers)
        raise found or AssertionError(f"a {self.type.__name__} breaks a bound that is not found again")


@functools.cache
def _codec(message_type: type[Message]) -> Codec[Message]:
    return Codec(message_type)


def codec(message_type: type[M]) -> Codec[M]:
    """The codec of a message class; built on first use and kept. TypeError if a field has no form on the wire."""
    return cast("Codec[M]", _codec(message_type))
