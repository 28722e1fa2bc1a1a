"""Istio's own YAML, read as it is: `DestinationRule` and `VirtualService` files to what takes effect in this process.

The one idea: **nothing is skipped in silence.** An unknown field, a wrong type, a number out of range or two fields
that exclude each other is a fault with file, line, column, path and remedy, and all faults come together. What Istio
knows and this does not do is a warning that says what happens instead. Everything else means here what it means in
Istio, defaults included.

    policies = load_policies(["mesh/"])
    policies.for_service("orders", 8080, "v2").outlier.interval_s
    policies.route("orders", Call("/shop.v1.Orders/Place", {"x-dougong-colour": "canary"}), Random())
    print(render(explain(policies, "orders", "v2", 8080)))

What it does not do: TLS and TCP routes, delegates, rewrites, gateways; anything but reading and deciding.
"""

from dougong.mesh.istio._block import Block
from dougong.mesh.istio._problems import Finding, Place
from dougong.mesh.istio._traffic import Traffic
from dougong.mesh.istio.explain import Line, explain, render
from dougong.mesh.istio.hosts import cluster_name, full_name, host_of_service
from dougong.mesh.istio.policies import Policies, load_policies, read_policies

__all__ = [
    "Block",
    "Finding",
    "Line",
    "Place",
    "Policies",
    "Traffic",
    "cluster_name",
    "explain",
    "full_name",
    "host_of_service",
    "load_policies",
    "read_policies",
    "render",
]
