"""`http[].match`: under which conditions a rule applies. What is known of the caller beforehand is settled here."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from dougong.errors import Invalid
from dougong.mesh.istio._fields import Table
from dougong.mesh.istio._yaml import Kind, Node
from dougong.mesh.patterns import compile_pattern
from dougong.mesh.routing import CallMatch, MatchKind, TextMatch

__all__ = ["Caller", "read_matches"]

_HEADER_NAME = re.compile(r"[-!#$%&'*+.^_`|~0-9a-zA-Z]+\Z")
_NOT_HEADERS = frozenset(["uri", "scheme", "method", "authority"])


class Caller(msgspec.Struct, frozen=True):
    """Who loads the files: what `sourceLabels`, `sourceNamespace` and `workloadSelector` are compared with."""

    namespace: str = "default"
    labels: Mapping[str, str] = {}


def read_matches(route: Table, caller: Caller) -> tuple[tuple[CallMatch, ...], bool]:
    """The conditions, any of which is enough, and whether the rule can apply to this caller at all."""
    found: list[CallMatch] = []
    everything = False
    entries = tuple(route.tables("match"))
    for entry in entries:
        with entry:
            match = _read_match(entry, caller)
        if match is not None:
            found.append(match)
            everything = everything or match == CallMatch()
    if everything:
        return (), True
    return tuple(found), bool(found) or not entries


def _read_match(entry: Table, caller: Caller) -> CallMatch | None:
    """None where it never holds for this caller."""
    entry.ignore("name", "statPrefix")
    conditions = [name for name in _CONDITIONS if name in entry]
    if not conditions:
        entry.fault("", "missing_field", f"has no condition: leave match out, or set one of {', '.join(_CONDITIONS)}")
    no_case = entry.flag("ignoreUriCase")
    match = CallMatch(
        uri=_field(entry, "uri", ignore_case=no_case),
        authority=_field(entry, "authority"),
        method=_field(entry, "method"),
        scheme=_field(entry, "scheme"),
        headers=_headers(entry, "headers"),
        without_headers=_headers(entry, "withoutHeaders"),
        port=entry.whole("port", high=65_535),
    )
    holds = True
    labels = entry.labels("sourceLabels")
    if any(caller.labels.get(name) != value for name, value in labels.items()):
        holds = False
    namespace = entry.text("sourceNamespace")
    if namespace and namespace != caller.namespace:
        holds = False
    gateways = entry.texts("gateways")
    if gateways and "mesh" not in gateways:
        entry.warn("gateways", "no_effect", "is for gateways only, so it never holds for calls from inside: add mesh")
        holds = False
    for name, _, node in entry.entries("queryParams"):
        read_text_match(node, f"{entry.at('queryParams')}.{name}", entry)
    if "queryParams" in entry:
        entry.warn("queryParams", "no_effect", "never holds: an RPC has no query")
        holds = False
    return match if holds else None


_CONDITIONS = (
    "uri",
    "headers",
    "withoutHeaders",
    "authority",
    "method",
    "scheme",
    "port",
    "sourceLabels",
    "sourceNamespace",
    "gateways",
    "queryParams",
)


def _field(entry: Table, name: str, *, ignore_case: bool = False) -> TextMatch | None:
    node = entry.node(name)
    if node is None:
        return None
    match = read_text_match(node, entry.at(name), entry)
    if node.kind is Kind.TABLE and not node.entries:
        entry.fault(name, "missing_field", "has no condition: set one of exact, prefix, regex")
    if ignore_case and match.kind is not MatchKind.REGEX:
        return TextMatch(match.kind, match.value, ignore_case=True)
    return match


def _headers(entry: Table, field: str) -> tuple[tuple[str, TextMatch], ...]:
    found: list[tuple[str, TextMatch]] = []
    for name, place, node in entry.entries(field):
        path = f"{entry.at(field)}.{name}"
        if name in _NOT_HEADERS:
            entry.findings.warn(place, path, "no_effect", f"is ignored: {name} is a condition of its own, not a header")
            continue
        if not _HEADER_NAME.match(name):
            entry.findings.fault(place, path, "bad_header", f"{name[:60]!r} is no header name")
            continue
        if name != name.lower():
            entry.findings.warn(place, path, "deprecated_value", f"header names are lower case: write {name.lower()}")
        if node.kind is Kind.NULL:
            entry.findings.fault(place, path, "missing_field", "is empty: write {} to ask whether it is there")
            continue
        found.append((name.lower(), read_text_match(node, path, entry)))
    return tuple(found)


def read_text_match(node: Node, path: str, holder: Table) -> TextMatch:
    """`exact`, `prefix` or `regex`; an empty table asks for presence."""
    if node.kind is Kind.NULL:
        return TextMatch(MatchKind.PRESENT)
    with Table(node, path, holder.findings) as table:
        chosen = table.one_of("exact", "prefix", "regex")
        values = {name: table.text(name) for name in ("exact", "prefix", "regex")}
    if not chosen:
        return TextMatch(MatchKind.PRESENT)
    value = values[chosen]
    if chosen == "prefix" and not value:
        table.fault("prefix", "out_of_range", "is empty: every text begins so, leave the condition out")
    if chosen == "regex":
        try:
            compile_pattern(value)
        except Invalid as error:
            table.fault("regex", "bad_regex", error.message)
            return TextMatch(MatchKind.PRESENT)
    return TextMatch(MatchKind(chosen), value)
