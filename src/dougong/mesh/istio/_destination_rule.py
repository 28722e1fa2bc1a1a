"""A `DestinationRule`: what applies to calls of one host, and of its subsets."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from dougong.mesh.istio import hosts
from dougong.mesh.istio._fields import Table
from dougong.mesh.istio._problems import Findings, Place
from dougong.mesh.istio._resource import Meta
from dougong.mesh.istio._traffic import Traffic, read_traffic

__all__ = ["DestinationRule", "Subset", "read_destination_rule", "read_host"]

_SUBSET_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?\Z")


class Subset(msgspec.Struct, frozen=True):
    place: Place
    labels: dict[str, str] = {}
    """An endpoint belongs to it that has all of them."""
    traffic: Traffic | None = None


class DestinationRule(msgspec.Struct, frozen=True):
    meta: Meta
    place: Place
    host: str
    """In full."""
    traffic: Traffic | None
    subsets: dict[str, Subset]
    selector: Mapping[str, str] | None
    """Labels of the callers it is for; None: all."""


def read_destination_rule(spec: Table, meta: Meta) -> DestinationRule:
    with spec:
        host = read_host(spec, "host", meta.namespace, wildcard=True)
        policy = spec.table("trafficPolicy")
        traffic = None if policy is None else read_traffic(policy)
        subsets: dict[str, Subset] = {}
        for entry in spec.tables("subsets"):
            _read_subset(entry, subsets)
        spec.unsupported("exportTo", "a file that is loaded applies to whoever loads it")
        selector: Mapping[str, str] | None = None
        chosen = spec.table("workloadSelector")
        if chosen is not None:
            with chosen:
                selector = chosen.labels("matchLabels")
    return DestinationRule(meta, spec.where("host"), host, traffic, subsets, selector)


def read_host(holder: Table, name: str, namespace: str, *, wildcard: bool = False) -> str:
    """A host in full, or nothing where the file is at fault."""
    written = holder.text(name, required=True)
    if not written:
        return ""
    return check_host(written, holder.where(name), holder.at(name), holder.findings, namespace, wildcard=wildcard)


def check_host(written: str, place: Place, path: str, findings: Findings, namespace: str, *, wildcard: bool) -> str:
    if not hosts.is_host(written, wildcard=wildcard):
        kind = "no host name" if wildcard or "*" not in written else "no host name, as no wildcard may stand here"
        findings.fault(
            place, path, "bad_host", f"{written[:60]!r} is {kind}: write orders, or orders.shop.svc.cluster.local"
        )
        return ""
    full = hosts.full_name(written, namespace)
    if "*" not in written and written.count(".") == 1:
        findings.warn(
            place, path, "ambiguous_host", f"Istio takes {written} for a host outside the cluster: write {full}"
        )
    return full


def _read_subset(entry: Table, subsets: dict[str, Subset]) -> None:
    with entry:
        name = entry.text("name", required=True)
        labels = entry.labels("labels")
        policy = entry.table("trafficPolicy")
        if name and not _SUBSET_NAME.match(name):
            entry.fault(
                "name", "out_of_range", f"{name[:60]!r} is no subset name: lower-case letters, digits and hyphens"
            )
        elif name in subsets:
            entry.fault("name", "contradiction", f"{name!r} is a subset already: give it another name")
        else:
            subsets[name] = Subset(entry.place, labels, None if policy is None else read_traffic(policy))
            return
        if policy is not None:
            read_traffic(policy)  # for its faults
