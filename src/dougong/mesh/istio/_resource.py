"""What every document is before its `spec` is read: its version, kind and name."""

from __future__ import annotations

import msgspec

from dougong.mesh.istio._fields import Table
from dougong.mesh.istio._problems import Findings, Place, did_you_mean
from dougong.mesh.istio._yaml import Kind, Node

__all__ = ["GROUP", "Meta", "Resource", "read_resources"]

GROUP = "networking.istio.io"
_VERSIONS = ("v1", "v1beta1", "v1alpha3")
_READ = ("DestinationRule", "VirtualService")
_OTHERS = ("EnvoyFilter", "Gateway", "ProxyConfig", "ServiceEntry", "Sidecar", "WorkloadEntry", "WorkloadGroup")
_ITEMS_MAX = 1000
_METADATA = (
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
)


class Meta(msgspec.Struct, frozen=True):
    kind: str
    name: str
    namespace: str
    place: Place

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name} ({self.place.file}:{self.place.line})"


class Resource(msgspec.Struct, frozen=True):
    meta: Meta
    spec: Node


def read_resources(document: Node, namespace: str, findings: Findings, path: str = "") -> list[Resource]:
    """The rules in one document; a `List` holds several. What else there is, is said to be left alone."""
    table = Table(document, path, findings)
    if document.kind is not Kind.TABLE:
        return []
    version, kind = table.text("apiVersion", required=True), table.text("kind", required=True)
    if version == "v1" and kind == "List":
        found: list[Resource] = []
        with table:
            table.ignore("metadata")
            for item, at in table.items("items")[:_ITEMS_MAX]:
                found += read_resources(item, namespace, findings, at) if item.kind is Kind.TABLE else []
        return found
    if not version or not kind:
        return []
    group, _, number = version.rpartition("/")
    if group != GROUP:
        table.warn("kind", "other_kind", f"{kind[:60]} of {version[:60]} is not read here")
        return []
    if number not in _VERSIONS:
        table.fault(
            "apiVersion", "unknown_api_version", f"{version[:60]!r} is not known; {did_you_mean(number, _VERSIONS)}"
        )
        return []
    if kind not in _READ:
        if kind in _OTHERS:
            table.warn("kind", "other_kind", f"{kind} is not enforced in process")
        else:
            told = did_you_mean(kind, (*_READ, *_OTHERS))
            table.fault("kind", "unknown_kind", f"{kind[:60]!r} is not known; {told}")
        return []
    if number == "v1alpha3":
        table.warn("apiVersion", "deprecated_value", f"v1alpha3 is deprecated: write {GROUP}/v1")
    with table:
        metadata = table.table("metadata", required=True)
        name = ""
        if metadata is not None:
            with metadata:
                name = metadata.text("name", required=True)
                namespace = metadata.text("namespace", default=namespace)
                metadata.ignore(*_METADATA)
        spec = table.node("spec", required=True)
        table.ignore("status")
    if spec is None:
        return []
    return [Resource(Meta(kind, name, namespace, document.place), spec)]
