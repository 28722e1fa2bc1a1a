"""Several rules for one host become one, and of that what applies to one port and subset."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dougong.mesh.istio._destination_rule import DestinationRule, Subset
from dougong.mesh.istio._problems import Findings
from dougong.mesh.istio._traffic import Traffic

__all__ = ["effective", "merge"]


def merge(rules: Sequence[DestinationRule], findings: Findings) -> dict[tuple[str, str], DestinationRule]:
    """By namespace and host. As in Istio the first rule's trafficPolicy stays, and subsets are added to it."""
    merged: dict[tuple[str, str], DestinationRule] = {}
    for rule in sorted(
        rules, key=lambda rule: rule.selector is None
    ):  # a rule for some callers goes before one for all
        key = rule.meta.namespace, rule.host
        first = merged.get(key)
        if first is None:
            merged[key] = rule
            continue
        if rule.selector is None and first.selector is not None:
            findings.warn(
                rule.place,
                "spec.host",
                "shadowed_policy",
                f"{first.meta} has a workloadSelector that fits, and is used",
            )
            continue
        subsets = dict(first.subsets)
        for name, subset in rule.subsets.items():
            if name in subsets:
                findings.warn(
                    subset.place,
                    "spec.subsets",
                    "duplicate_subset",
                    f"{name!r} is in {first.meta} already, and that stays",
                )
            else:
                subsets[name] = subset
        if first.traffic is not None and rule.traffic is not None:
            findings.warn(
                rule.place,
                "spec.trafficPolicy",
                "shadowed_policy",
                f"{first.meta} has one for {rule.host} already, and only that applies: merge the two",
            )
        merged[key] = msgspec.structs.replace(
            first, subsets=subsets, traffic=first.traffic if first.traffic is not None else rule.traffic
        )
    return merged


def effective(rule: DestinationRule, port: int, subset: Subset | None) -> Traffic:
    """Istio's MergeSubsetTrafficPolicy: each side for the port, then the subset's blocks over the host's.

    An entry for the port replaces connectionPool, loadBalancer, outlierDetection and tls wholesale, and the retry
    budget of its own side, for which it has no field.
    """
    base, _ = _for_port(rule.traffic, port)
    if subset is None or subset.traffic is None:
        return base if base is not None else Traffic()
    over, wholesale = _for_port(subset.traffic, port)
    if base is None or over is None:
        return over if over is not None else Traffic()
    return Traffic(
        limits=over.limits if wholesale or over.limits is not None else base.limits,
        outlier=over.outlier if wholesale or over.outlier is not None else base.outlier,
        balancing=over.balancing if wholesale or over.balancing is not None else base.balancing,
        tls=over.tls if wholesale or over.tls is not None else base.tls,
        retry_budget=over.retry_budget if over.retry_budget is not None else base.retry_budget,
    )


def _for_port(traffic: Traffic | None, port: int) -> tuple[Traffic | None, bool]:
    if traffic is None or port not in traffic.ports:
        return traffic, False
    return traffic.ports[port], True
