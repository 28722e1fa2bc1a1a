"""A `VirtualService`: the rules for calls of its hosts."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from dougong.mesh.istio._destination_rule import check_host, read_host
from dougong.mesh.istio._fields import Table
from dougong.mesh.istio._http_actions import read_fault, read_headers, read_mirrors, read_retries
from dougong.mesh.istio._http_match import Caller, read_matches
from dougong.mesh.istio._problems import Place
from dougong.mesh.istio._resource import Meta
from dougong.mesh.istio._traffic import read_port
from dougong.mesh.routing import Destination, DirectAnswer, HeaderOps, Rule, Target

__all__ = ["Caller", "VirtualService", "read_destination", "read_virtual_service"]

_MESH = "mesh"
_INT32_MAX = 2**31 - 1
_CORS = (
    "allowCredentials",
    "allowHeaders",
    "allowMethods",
    "allowOrigin",
    "allowOrigins.exact+prefix+regex",
    "exposeHeaders",
    "maxAge",
    "unmatchedPreflights",
)
_REWRITE = ("authority", "uri", "uriRegexRewrite.match+rewrite")


class VirtualService(msgspec.Struct, frozen=True):
    meta: Meta
    hosts: dict[str, Place]
    """In full."""
    rules: tuple[Rule, ...]
    places: tuple[Mapping[str, Place], ...]
    """Of each rule, by attribute."""
    references: tuple[tuple[Destination, Place, str], ...]
    """Every destination named, where, and the path of its field."""


def read_virtual_service(spec: Table, meta: Meta, caller: Caller) -> VirtualService | None:
    """None for one that says nothing about this caller's calls: bound to gateways, or without a rule that can apply.

    Istio routes calls then as if it were not there.
    """
    with spec:
        names: dict[str, Place] = {}
        for node, path in spec.items("hosts", required=True):
            if isinstance(node.value, str):
                host = check_host(node.value, node.place, path, spec.findings, meta.namespace, wildcard=True)
                names[host] = node.place
            else:
                spec.findings.fault(node.place, path, "wrong_type", "is not text: write a host, such as orders")
        gateways = spec.texts("gateways")
        for name in ("tls", "tcp"):
            spec.unsupported(name, "only http routes are", "match", "route")
        spec.unsupported("exportTo", "a file that is loaded applies to whoever loads it")
        reader = _Reader(meta, caller)
        for route in spec.tables("http"):
            reader.read(route)
        if gateways and _MESH not in gateways:
            spec.warn(
                "gateways", "no_effect", "it is for gateways only, so calls from inside do not follow it: add mesh"
            )
            return None
        if not reader.rules:
            spec.warn(
                "http", "no_effect", "has no rule that can apply to calls from here, so they go straight to the host"
            )
            return None
    return VirtualService(meta, names, tuple(reader.rules), tuple(reader.places), tuple(reader.references))


def read_destination(holder: Table, namespace: str) -> Destination:
    with holder:
        return Destination(read_host(holder, "host", namespace), holder.text("subset"), read_port(holder))


class _Reader:
    def __init__(self, meta: Meta, caller: Caller) -> None:
        self._namespace = meta.namespace
        self._caller = caller
        self._all_matched = False
        self.rules: list[Rule] = []
        self.places: list[Mapping[str, Place]] = []
        self.references: list[tuple[Destination, Place, str]] = []

    def read(self, route: Table) -> None:
        with route:
            rule = self._rule(route)
        if rule is None:
            return
        if self._all_matched:
            route.warn("", "unreachable_rule", "is never reached: a rule before it matches everything")
        self._all_matched = self._all_matched or not rule.matches
        self.rules.append(rule)
        self.places.append(
            {"": route.place}
            | route.spots(
                matches="match", targets="route", timeout_s="timeout", retries="retries", fault="fault", name="name"
            )
            | route.spots(mirrors="mirror", answer="directResponse")
            | route.spots(mirrors="mirrors", answer="redirect")
        )

    def _rule(self, route: Table) -> Rule | None:
        name = route.text("name")
        matches, possible = read_matches(route, self._caller)
        route.one_of("route", "redirect", "directResponse")
        targets = self._targets(route)
        answer = self._answer(route)
        timeout_s = route.duration("timeout", zero=True)
        retries = read_retries(route)
        request, response = read_headers(route)
        fault = read_fault(route)
        mirrors = read_mirrors(route, self._named)
        route.unsupported("corsPolicy", "browsers ask a gateway, not an instance", *_CORS)
        route.unsupported("rewrite", "a call goes to the method it names", *_REWRITE)
        if "delegate" in route:
            route.unsupported("delegate", "the rule is left out", "name", "namespace")
            return None
        if not targets and answer is None:
            route.fault("", "missing_field", "says nothing: set route, redirect or directResponse")
        if not possible:
            return None
        return Rule(
            targets=targets,
            matches=matches,
            name=name,
            timeout_s=timeout_s,
            retries=retries,
            request=request,
            response=response,
            fault=fault,
            mirrors=mirrors,
            answer=answer,
        )

    def _named(self, table: Table) -> Destination:
        destination = read_destination(table, self._namespace)
        self.references.append((destination, table.where("subset"), table.at("subset")))
        return destination

    def _targets(self, route: Table) -> tuple[Target, ...]:
        found: list[Target] = []
        for entry in route.tables("route"):
            with entry:
                destination = entry.table("destination", required=True)
                weight = entry.whole("weight", high=_INT32_MAX)
                request: HeaderOps | None
                response: HeaderOps | None
                request, response = read_headers(entry)
                if destination is not None:
                    found.append(Target(self._named(destination), weight, request, response))
        if len(found) == 1:
            return (msgspec.structs.replace(found[0], weight=100),)
        if found and not any(target.weight for target in found):
            route.fault("route", "out_of_range", "the weights add up to 0: give at least one destination a weight")
        return tuple(found)

    def _answer(self, route: Table) -> DirectAnswer | None:
        answer: DirectAnswer | None = None
        direct = route.table("directResponse")
        if direct is not None:
            with direct:
                status = direct.whole("status", low=200, high=599, default=200)
                if "status" not in direct:
                    direct.fault("", "missing_field", "has no status")
                body = direct.table("body")
                text = ""
                if body is not None:
                    with body:
                        text = body.text("string")
                        body.unsupported("bytes", "the answer has no body")
            answer = DirectAnswer(status, text)
        redirect = route.table("redirect")
        if redirect is not None:
            with redirect:
                redirect.ignore("uri", "authority", "port", "derivePort", "scheme")
                code = redirect.whole("redirectCode", low=300, high=399, default=301)
            route.warn("redirect", "unsupported_field", f"is not followed by RPC: the call ends with HTTP {code}")
            answer = DirectAnswer(code)
        return answer
