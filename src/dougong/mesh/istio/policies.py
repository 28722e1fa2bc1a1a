"""What the files of a system come to: a policy for each host, port and subset, and a way for each call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from random import Random

from dougong.errors import Unavailable
from dougong.mesh.istio import hosts as names
from dougong.mesh.istio._destination_rule import DestinationRule, read_destination_rule
from dougong.mesh.istio._fields import Table
from dougong.mesh.istio._http_match import Caller
from dougong.mesh.istio._merging import effective, merge
from dougong.mesh.istio._problems import Finding, Findings, Place, Stop, in_order
from dougong.mesh.istio._resource import read_resources
from dougong.mesh.istio._traffic import Traffic
from dougong.mesh.istio._virtual_service import VirtualService, read_virtual_service
from dougong.mesh.istio._yaml import BYTES_MAX, documents
from dougong.mesh.policy import Balancing, ConnectionLimits, Policy
from dougong.mesh.routing import Call, Decision, Destination, Routes, Rule, Target

__all__ = ["Policies", "load_policies", "read_policies"]

_ROOT_NAMESPACE = "istio-system"
_FILES_MAX = 1000
_HOSTS_MAX = 10_000
"""Whose look-ups are remembered."""


class Policies:
    """Everything that was read. Look-ups are remembered, so asking for each call is cheap."""

    def __init__(
        self,
        rules: Mapping[tuple[str, str], DestinationRule],
        services: Iterable[VirtualService],
        caller: Caller,
        hosts: Mapping[str, str],
        warnings: tuple[Finding, ...],
    ) -> None:
        self.caller = caller
        self.warnings = warnings
        """What is known and not enforced, deprecated, shadowed or without effect."""
        self._hosts = dict(hosts)
        self._rules: dict[str, dict[str, DestinationRule]] = {}
        for (namespace, host), rule in rules.items():
            self._rules.setdefault(namespace, {})[host] = rule
        self._services: dict[str, VirtualService] = {}
        for service in services:
            for host in service.hosts:
                self._services.setdefault(host, service)
        self._compiled: dict[int, Routes] = {}
        self._found: dict[tuple[str, int, str], Policy] = {}
        self._ways: dict[str, Routes] = {}

    def host_of(self, service: str) -> str:
        """The full host of a service by its contract's name, such as `shop.v1.Orders`."""
        return self.full(self._hosts.get(service) or names.host_of_service(service))

    def full(self, host: str) -> str:
        """The full name of a host as this caller says it."""
        return names.full_name(host, self.caller.namespace)

    def for_service(self, host: str, port: int = 0, subset: str = "") -> Policy:
        """What applies to calls of a host. A host no file speaks of has the defaults.

        A subset that no rule defines raises `Unavailable` (`unknown_subset`), as Envoy answers 503.
        """
        key = host, port, subset
        policy = self._found.get(key)
        if policy is None:
            policy = _policy(self.traffic(host, port, subset))
            if len(self._found) >= _HOSTS_MAX:
                self._found.clear()
            self._found[key] = policy
        return policy

    def traffic(self, host: str, port: int = 0, subset: str = "") -> Traffic:
        """The same with the place of every value that was written."""
        rule = self.rule(host)
        if not subset:
            return Traffic() if rule is None else effective(rule, port, None)
        if rule is None or subset not in rule.subsets:
            known = f"; there are {', '.join(rule.subsets)}" if rule is not None and rule.subsets else ""
            raise Unavailable(
                f"no DestinationRule for {self.full(host)} has a subset {subset!r}{known}", code="unknown_subset"
            )
        return effective(rule, port, rule.subsets[subset])

    def subset_labels(self, host: str, subset: str) -> Mapping[str, str]:
        """What an endpoint must be labelled with to belong to the subset; nothing for no subset."""
        if not subset:
            return {}
        self.traffic(host, 0, subset)
        rule = self.rule(host)
        assert rule is not None
        return rule.subsets[subset].labels

    def rule(self, host: str) -> DestinationRule | None:
        """From the caller's namespace, else from the host's, else from Istio's own; the most specific host wins."""
        full = self.full(host)
        for namespace in dict.fromkeys((self.caller.namespace, names.namespace_of(full), _ROOT_NAMESPACE)):
            candidates = self._rules.get(namespace)
            if candidates and (found := names.most_specific(full, candidates)) is not None:
                return candidates[found]
        return None

    def service(self, host: str) -> VirtualService | None:
        """The VirtualService whose host covers this one most specifically."""
        found = names.most_specific(self.full(host), self._services)
        return None if found is None else self._services[found]

    def routes(self, host: str) -> Routes | None:
        """The compiled rules for a host, to be kept by whoever calls it often; None: nothing but the host itself."""
        service = self.service(host)
        if service is None:
            return None
        routes = self._compiled.get(id(service))
        if routes is None:
            routes = self._compiled[id(service)] = Routes(service.rules)
        return routes

    def route(self, host: str, call: Call, random: Random) -> Decision | None:
        """Where a call of `host` goes. None when there are rules for the host and none matches: Envoy answers 404."""
        routes = self._ways.get(host)
        if routes is None:
            routes = self.routes(host)
            if routes is None:
                routes = Routes([Rule(targets=(Target(Destination(self.full(host))),))])
            if len(self._ways) >= _HOSTS_MAX:
                self._ways.clear()
            self._ways[host] = routes
        return routes.route(call, random)

    def clusters(self) -> tuple[tuple[str, str, int], ...]:
        """Every host, subset and port (0: any other) that some file speaks of; hosts may be wildcards."""
        found: dict[tuple[str, str, int], None] = {}
        for rules in self._rules.values():
            for rule in rules.values():
                blocks = (rule.traffic, *(subset.traffic for subset in rule.subsets.values()))
                ports = sorted({port for traffic in blocks if traffic is not None for port in traffic.ports})
                found |= {(rule.host, subset, port): None for subset in ("", *rule.subsets) for port in (0, *ports)}
        found |= {(host, "", 0): None for host in self._services}
        return tuple(found)

    def matched_headers(self) -> frozenset[str]:
        """Every header that some rule looks at: what traffic colouring may carry onward."""
        return frozenset(
            name
            for service in self._services.values()
            for rule in service.rules
            for match in rule.matches
            for name, _ in (*match.headers, *match.without_headers)
        )


def load_policies(
    paths: Iterable[Path | str],
    *,
    namespace: str = "default",
    labels: Mapping[str, str] | None = None,
    hosts: Mapping[str, str] | None = None,
) -> Policies:
    """Read files, and the `*.yaml` and `*.yml` of folders, in the order of their names.

    - `namespace`, `labels`: of the caller; what a file without a namespace belongs to, what selectors look at.
    - `hosts`: which host a service is, for those not named after it (`{"shop.v1.Orders": "orders.shop"}`).

    Raises `Invalid` with all faults of all files, each with file, line, column and field; what is only not enforced is
    in `warnings`.
    """
    findings, contents = Findings(), {}
    for path in _files(paths, findings):
        try:
            with path.open("rb") as file:
                contents[str(path)] = file.read(BYTES_MAX + 1)
        except (OSError, ValueError) as error:
            _cannot_read(path, error, findings)
    return _read(contents, Caller(namespace, labels or {}), hosts or {}, findings)


def read_policies(
    contents: Mapping[str, bytes | str],
    *,
    namespace: str = "default",
    labels: Mapping[str, str] | None = None,
    hosts: Mapping[str, str] | None = None,
) -> Policies:
    """The same of texts that are at hand, by the name that messages give them."""
    encoded = {
        name: text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        for name, text in contents.items()
    }
    return _read(encoded, Caller(namespace, labels or {}), hosts or {}, Findings())


def _files(paths: Iterable[Path | str], findings: Findings) -> list[Path]:
    found: list[Path] = []
    for path in (Path(path) for path in paths):
        try:
            if path.is_dir():
                found += sorted(entry for entry in path.iterdir() if entry.suffix in {".yaml", ".yml"})
            else:
                found.append(path)
        except (OSError, ValueError) as error:
            _cannot_read(path, error, findings)
    if len(found) > _FILES_MAX:
        findings.fault(
            Place(str(found[0]), 1, 1), "", "too_large", f"{len(found)} files, and at most {_FILES_MAX} are read"
        )
        return []
    return found


def _cannot_read(path: Path, error: OSError | ValueError, findings: Findings) -> None:
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    findings.fault(Place(str(path), 1, 1), "", "unreadable", f"cannot be read: {told}")


def _read(contents: Mapping[str, bytes], caller: Caller, hosts: Mapping[str, str], findings: Findings) -> Policies:
    rules: list[DestinationRule] = []
    services: list[VirtualService] = []
    for file, data in contents.items():
        try:
            found = documents(data, file)
        except Stop as stop:
            findings.faults.append(stop.finding)
            continue
        for document in found:
            for resource in read_resources(document, caller.namespace, findings):
                spec = Table(resource.spec, "spec", findings)
                if resource.meta.kind == "DestinationRule":
                    rules.append(read_destination_rule(spec, resource.meta))
                elif (service := read_virtual_service(spec, resource.meta, caller)) is not None:
                    services.append(service)
    findings.refuse()
    merged = merge([rule for rule in rules if _selects(rule, caller, findings)], findings)
    _note_conflicts(services, findings)
    policies = Policies(merged, services, caller, hosts, ())
    for service in services:
        for destination, place, path in service.references:
            if destination.subset and not _defined(policies, destination):
                text = f"no DestinationRule for {destination.host} has a subset {destination.subset!r}: its calls fail"
                findings.warn(place, path, "unknown_subset", text)
    policies.warnings = in_order(findings.warnings)
    return policies


def _selects(rule: DestinationRule, caller: Caller, findings: Findings) -> bool:
    if rule.selector is None or all(caller.labels.get(name) == value for name, value in rule.selector.items()):
        return True
    findings.warn(
        rule.place, "spec.workloadSelector", "no_effect", "selects other callers by their labels: the rule is left out"
    )
    return False


def _note_conflicts(services: list[VirtualService], findings: Findings) -> None:
    first: dict[str, VirtualService] = {}
    for service in services:
        for host, place in service.hosts.items():
            known = first.setdefault(host, service)
            if known is not service:
                text = f"{host} is routed by {known.meta} already, and only that applies"
                findings.warn(place, "spec.hosts", "conflicting_hosts", text)


def _defined(policies: Policies, destination: Destination) -> bool:
    try:
        policies.traffic(destination.host, destination.port, destination.subset)
    except Unavailable:
        return False
    return True


def _policy(traffic: Traffic) -> Policy:
    return Policy(
        limits=traffic.limits.value if traffic.limits is not None else ConnectionLimits(),
        outlier=traffic.outlier.value if traffic.outlier is not None else None,
        balancing=traffic.balancing.value if traffic.balancing is not None else Balancing(),
        retry_budget=traffic.retry_budget.value if traffic.retry_budget is not None else None,
        tls=traffic.tls.value if traffic.tls is not None else None,
    )
