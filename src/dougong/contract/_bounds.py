"""Bounds (`Annotated[int, Meta(ge=1)]`) as compiled checks.

msgspec checks them while it decodes JSON. Protobuf knows no bounds, so what came that way is checked here, with the
same meaning. The compiled check only answers yes or no; the slow walk that names the field runs after a no.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from dougong.contract._shape import Bounds, FieldShape, MessageShape, ValueShape, shape_of
from dougong.contract._source import Source
from dougong.errors import Invalid

__all__ = ["compile_checks", "first_violation"]

_INT64 = {"ge": -(2**63), "le": 2**63 - 1}
_OPERATORS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def compile_checks(messages: Iterable[MessageShape], *, integers: bool) -> dict[type, Callable[[Any], bool]]:
    """Message class → does this message keep its bounds? Classes with nothing to check are left out.

    `integers`: also check that every int fits 64 bits, which JSON does not promise.
    """
    shapes = list(messages)
    needed = _needed(shapes, integers)
    source = Source()
    names = {shape.type: f"check_{index}" for index, shape in enumerate(shapes) if shape.type in needed}
    for shape in shapes:
        if shape.type in needed:
            source.line(0, f"def {names[shape.type]}(m):")
            for field in shape.fields:
                _field(source, field, names, integers)
            source.line(1, "return True")
    namespace = source.compile("bounds")
    return {kind: namespace[name] for kind, name in names.items()}


def _needed(shapes: list[MessageShape], integers: bool) -> set[type]:
    """The classes with bounds in them or below them (a fixed point, since messages may contain themselves)."""
    needed = {
        shape.type
        for shape in shapes
        if any(f.bounds or f.key_bounds or _value_bounds(f.value, integers) for f in shape.fields)
    }
    while more := {
        shape.type for shape in shapes if shape.type not in needed and any(f.value.type in needed for f in shape.fields)
    }:
        needed |= more
    return needed


def _value_bounds(value: ValueShape, integers: bool) -> Bounds:
    if not integers or value.kind != "int64":
        return value.bounds
    bounds = dict(value.bounds)
    if "gt" not in bounds or bounds["gt"] < _INT64["ge"]:
        bounds["ge"] = max(bounds.get("ge", _INT64["ge"]), _INT64["ge"])
    if "lt" not in bounds or bounds["lt"] > _INT64["le"]:
        bounds["le"] = min(bounds.get("le", _INT64["le"]), _INT64["le"])
    return bounds


def _field(source: Source, field: FieldShape, names: dict[type, str], integers: bool) -> None:
    bounds, nested = _value_bounds(field.value, integers), names.get(field.value.type)
    if not (bounds or nested or field.bounds or field.key_bounds):
        return
    source.line(1, f"v = m.{field.name}")
    if field.form in ("one", "optional"):
        depth = 1
        if field.form == "optional":
            source.line(1, "if v is not None:")
            depth = 2
        _refuse(source, depth, "v", bounds, nested)
        return
    _refuse(source, 1, "v", field.bounds, None)
    if field.key_bounds:
        source.line(1, "for x in v:")
        _refuse(source, 2, "x", field.key_bounds, None)
    if bounds or nested:
        source.line(1, "for x in v.values():" if field.form == "map" else "for x in v:")
        _refuse(source, 2, "x", bounds, nested)


def _refuse(source: Source, depth: int, name: str, bounds: Bounds, nested: str | None) -> None:
    """`if not (all bounds hold): return False`, in the form in which NaN does not hold either."""
    terms: list[str] = []
    low = next(
        (f"{source.name(bounds[key])} {'<=' if key == 'ge' else '<'} " for key in ("ge", "gt") if key in bounds), ""
    )
    high = next((f" {_OPERATORS[key]} {source.name(bounds[key])}" for key in ("le", "lt") if key in bounds), "")
    if low or high:
        terms.append(f"{low}{name}{high}")
    if "min_length" in bounds or "max_length" in bounds:
        low = f"{bounds['min_length']} <= " if bounds.get("min_length") else ""
        high = f" <= {bounds['max_length']}" if "max_length" in bounds else ""
        if low or high:
            terms.append(f"{low}len({name}){high}")
    if "multiple_of" in bounds:
        terms.append(f"{name} % {source.name(bounds['multiple_of'])} == 0")
    if "pattern" in bounds:
        terms.append(f"{source.name(re.compile(bounds['pattern']).search)}({name})")
    if nested is not None:
        terms.append(f"{nested}({name})")
    if terms:
        source.line(depth, f"if not ({' and '.join(terms)}):")
        source.line(depth + 1, "return False")


def first_violation(message: Any, path: str = "", *, integers: bool = False) -> Invalid | None:
    """The first bound a message breaks, as an error naming the path (`lines[2].quantity`). Slow; only after a no."""
    for field in shape_of(type(message)).fields:
        here, value = f"{path}{field.name}", getattr(message, field.name)
        if field.form in ("one", "optional"):
            items = [] if value is None and field.form == "optional" else [(here, value)]
        else:
            if found := _broken(here, value, field.bounds):
                return found
            if field.form == "map":
                items = [(f"{here}[{key!r}]", item) for key, item in value.items()]
                for key in value:
                    if found := _broken(f"{here} key {key!r}", key, field.key_bounds):
                        return found
            else:
                items = [(f"{here}[{index}]", item) for index, item in enumerate(value)]
        for where, item in items:
            if field.value.kind == "message":
                found = first_violation(item, f"{where}.", integers=integers)
            else:
                found = _broken(where, item, _value_bounds(field.value, integers))
            if found:
                return found
    return None


def _broken(where: str, value: Any, bounds: Bounds) -> Invalid | None:
    """Says which bound is broken. Texts are not quoted back: they may be secrets."""
    for key, bound in bounds.items():
        if key in _OPERATORS:
            holds = {"ge": value >= bound, "gt": value > bound, "le": value <= bound, "lt": value < bound}[key]
            wanted = f"must be {_OPERATORS[key]} {bound}, not {_shown(value)}"
        elif key == "multiple_of":
            holds, wanted = value % bound == 0, f"must be a multiple of {bound}, not {_shown(value)}"
        elif key == "pattern":
            holds, wanted = re.search(bound, value) is not None, f"must match {bound!r}"
        else:
            size, least = len(value), key == "min_length"
            holds = size >= bound if least else size <= bound
            wanted = f"must have at {'least' if least else 'most'} {bound} {_unit(value)}, not {size}"
        if not holds:
            return Invalid(f"{where} {wanted}", code="invalid_field", field=where)
    return None


def _shown(value: object) -> str:
    """Numbers only, and not the longest."""
    return str(value)[:40] if isinstance(value, (int, float)) else "this"


def _unit(value: object) -> str:
    return "characters" if isinstance(value, str) else "bytes" if isinstance(value, bytes) else "entries"
