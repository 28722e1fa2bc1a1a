"""What applies and why: every effective value with the line it was written in, or that it is a default."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from dougong.mesh.istio._block import Block
from dougong.mesh.istio._problems import Place
from dougong.mesh.istio.policies import Policies
from dougong.mesh.policy import NO_LIMIT
from dougong.mesh.routing import Rule, TextMatch

__all__ = ["Line", "explain", "render"]

_DEFAULT = "default"
_BLOCKS = ("limits", "outlier", "balancing", "retry_budget", "tls")


class Line(msgspec.Struct, frozen=True):
    """`outlier.interval_s`, `10 s`, `mesh.yaml:12` or `default`."""

    field: str
    value: str
    origin: str


def explain(policies: Policies, host: str, subset: str = "", port: int = 0) -> tuple[Line, ...]:
    """Policy first, then the rules that route calls of the host, in their order."""
    lines: list[Line] = []
    policy = policies.for_service(host, port, subset)
    traffic = policies.traffic(host, port, subset)
    blocks: dict[str, Block[object] | None] = {name: getattr(traffic, name) for name in _BLOCKS}
    for name, block in blocks.items():
        value = getattr(policy, name)
        if value is None:
            lines.append(Line(name, "off", _DEFAULT))
            continue
        places: Mapping[str, Place] = block.places if block is not None else {}
        for field in msgspec.structs.fields(value):
            place = places.get(field.name)
            told = _told(field.name, getattr(value, field.name))
            lines.append(Line(f"{name}.{field.name}", told, f"{place.file}:{place.line}" if place else _DEFAULT))
    labels = policies.subset_labels(host, subset)
    rule = policies.rule(host)
    if rule is not None and labels:
        place = rule.subsets[subset].place
        lines.append(Line("subset.labels", _told("", labels), f"{place.file}:{place.line}"))
    service = policies.service(host)
    if service is None:
        return tuple(lines)
    for index, (route, places) in enumerate(zip(service.rules, service.places, strict=True)):
        lines += _rule(index, route, places)
    return tuple(lines)


def _rule(index: int, rule: Rule, places: Mapping[str, Place]) -> list[Line]:
    lines: list[Line] = []
    for field in msgspec.structs.fields(rule):
        value = getattr(rule, field.name)
        if value == field.default and field.name != "retries":
            continue
        place = places.get(field.name) or (places[""] if field.name not in {"retries", "timeout_s"} else None)
        origin = f"{place.file}:{place.line}" if place else _DEFAULT
        lines.append(Line(f"http[{index}].{field.name}", _told(field.name, value), origin))
    return lines


def render(lines: tuple[Line, ...]) -> str:
    """As a table for people."""
    widths = [max((len(getattr(line, name)) for line in lines), default=0) for name in ("field", "value")]
    return "\n".join(f"{line.field:<{widths[0]}}  {line.value:<{widths[1]}}  {line.origin}" for line in lines)


def _told(name: str, value: object) -> str:
    """A value for people; several of them one after the other, nested ones as YAML writes them in one line."""
    if isinstance(value, tuple | frozenset) and value:
        items = sorted(value, key=str) if isinstance(value, frozenset) else value
        return ", ".join(_nested(name, item) for item in items)
    return _nested(name, value)


def _nested(name: str, value: object) -> str:
    match value:
        case None | () | "":
            return "none"
        case bool():
            return "true" if value else "false"
        case int() | float():
            if value == NO_LIMIT:
                return "no limit"
            unit = " s" if name.endswith("_s") else " %" if name.endswith("percent") else ""
            return f"{value:g}{unit}" if isinstance(value, float) else f"{value}{unit}"
        case TextMatch():
            written = f"{value.kind.value} {value.value}".rstrip()
            return f"{written} (any case)" if value.ignore_case else written
        case msgspec.Struct():
            fields = {
                field.name: (getattr(value, field.name), field.default) for field in msgspec.structs.fields(value)
            }
            parts = [f"{key}: {_nested(key, item)}" for key, (item, default) in fields.items() if item != default]
            return f"{{{', '.join(parts)}}}" if parts else "as by default"
        case Mapping():
            return (
                f"{{{', '.join(f'{key}: {_nested(name, item)}' for key, item in value.items())}}}" if value else "none"
            )
        case (str() as key, item):
            return f"{{{key}: {_nested(name, item)}}}"
        case tuple() | frozenset():
            items = sorted(value, key=str) if isinstance(value, frozenset) else value
            return f"[{', '.join(_nested(name, item) for item in items)}]"
        case _:
            return str(value)
