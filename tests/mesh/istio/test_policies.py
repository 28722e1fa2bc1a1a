"""From files to what applies: each rule of the design, then hosts, merging and who the caller is."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.errors import Unavailable
from dougong.mesh.istio import Policies, cluster_name, explain, full_name, host_of_service, load_policies, read_policies
from dougong.mesh.istio.hosts import is_host, most_specific
from dougong.mesh.policy import (
    NO_LIMIT,
    BalancerKind,
    ConnectionLimits,
    OutlierPolicy,
    Policy,
    RetryBudgetPolicy,
)
from dougong.mesh.routing import Call, Destination


def rule(spec: str, *, name: str = "orders", namespace: str = "") -> str:
    within = f", namespace: {namespace}" if namespace else ""
    return f"""\
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}{within}}}
spec: {spec}
"""


def routed(spec: str, *, name: str = "orders") -> str:
    return f"""\
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}}}
spec: {spec}
"""


def policy(block: str) -> Policy:
    policies = read_policies({"mesh.yaml": rule(f"{{host: orders, trafficPolicy: {{{block}}}}}")})
    return policies.for_service("orders", 8080)


def outlier(fields: str) -> OutlierPolicy:
    found = policy(f"outlierDetection: {{{fields}}}").outlier
    assert found is not None
    return found


# What the design says of DestinationRules, sentence by sentence.


def test_limits_unset_or_zero_are_no_limit() -> None:
    assert NO_LIMIT == 2**32 - 1
    assert policy("tls: {mode: SIMPLE}").limits == ConnectionLimits()
    zeros = policy(
        "connectionPool: {tcp: {maxConnections: 0}, http: {http1MaxPendingRequests: 0, http2MaxRequests: 0,"
        " maxRequestsPerConnection: 0, maxRetries: 0, maxConcurrentStreams: 0}}"
    )
    assert zeros.limits == ConnectionLimits()
    assert zeros.limits.max_retries == NO_LIMIT


def test_the_connect_timeout_is_ten_seconds() -> None:
    assert policy("connectionPool: {tcp: {}}").limits.connect_timeout_s == 10.0


def test_the_idle_timeout_of_http_goes_before_that_of_tcp() -> None:
    assert policy("connectionPool: {tcp: {idleTimeout: 5s}}").limits.idle_timeout_s == 5
    assert policy("connectionPool: {tcp: {idleTimeout: 5s}, http: {idleTimeout: 7s}}").limits.idle_timeout_s == 7
    assert policy("connectionPool: {http: {}, tcp: {idleTimeout: 0s}}").limits.idle_timeout_s == 0


def test_the_balancer_is_least_request() -> None:
    for block in ("tls: {mode: SIMPLE}", "loadBalancer: {}", "loadBalancer: {simple: UNSPECIFIED}"):
        assert policy(block).balancing.kind is BalancerKind.LEAST_REQUEST


def test_a_ring_has_1024_and_maglev_65537() -> None:
    ring = policy("loadBalancer: {consistentHash: {useSourceIp: true}}").balancing
    assert (ring.kind, ring.ring_size_min) == (BalancerKind.RING_HASH, 1024)
    maglev = policy("loadBalancer: {consistentHash: {useSourceIp: true, maglev: {}}}").balancing
    assert (maglev.kind, maglev.maglev_size) == (BalancerKind.MAGLEV, 65_537)


def test_5xx_unset_is_five_enforced_and_zero_is_off() -> None:
    assert outlier("").consecutive_5xx == 5
    assert outlier("consecutive5xxErrors: 0").consecutive_5xx == 0
    assert outlier("consecutive5xxErrors: 7").consecutive_5xx == 7


def test_gateway_errors_unset_are_detected_at_five_and_not_enforced() -> None:
    unset, off, given = outlier(""), outlier("consecutiveGatewayErrors: 0"), outlier("consecutiveGatewayErrors: 3")
    assert (unset.consecutive_gateway, unset.enforce_gateway) == (5, False)
    assert (off.consecutive_gateway, off.enforce_gateway) == (0, False)
    assert (given.consecutive_gateway, given.enforce_gateway) == (3, True)


def test_at_most_ten_percent_are_ejected_when_unset_or_zero() -> None:
    assert outlier("").max_ejection_percent == outlier("maxEjectionPercent: 0").max_ejection_percent == 10
    assert outlier("maxEjectionPercent: 100").max_ejection_percent == 100


def test_min_health_is_the_panic_threshold_and_zero() -> None:
    assert outlier("").min_health_percent == 0
    assert outlier("minHealthPercent: 50").min_health_percent == 50


def test_the_longest_ejection_is_300_seconds_or_the_base() -> None:
    assert outlier("").max_ejection_s == outlier("baseEjectionTime: 1s").max_ejection_s == 300
    assert outlier("baseEjectionTime: 10m").max_ejection_s == 600


def test_success_rate_is_always_off() -> None:
    assert not outlier("").success_rate
    assert not outlier("").failure_percentage


def test_local_failures_count_apart_only_when_split() -> None:
    split = outlier("splitExternalLocalOriginErrors: true")
    assert (split.split_local_origin, split.consecutive_local_origin) == (True, 5)
    zero = outlier("splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 0")
    assert zero.consecutive_local_origin == 5  # Istio hands on only what is above 0


def test_no_outlier_detection_is_none_and_no_budget_is_none() -> None:
    plain = policy("tls: {mode: SIMPLE}")
    assert plain.outlier is None
    assert plain.retry_budget is None


def test_a_budget_is_twenty_percent_and_three() -> None:
    assert policy("retryBudget: {}").retry_budget == RetryBudgetPolicy(20.0, 3)
    assert policy("retryBudget: {percent: 0, minRetryConcurrency: 0}").retry_budget == RetryBudgetPolicy(0.0, 3)


PORTS = """
{host: orders, trafficPolicy: {
  connectionPool: {tcp: {maxConnections: 1}}, outlierDetection: {}, tls: {mode: SIMPLE}, loadBalancer: {simple: RANDOM},
  retryBudget: {}, portLevelSettings: [{port: {number: 9}, loadBalancer: {simple: ROUND_ROBIN}}]},
 subsets: [{name: bare}, {name: own, trafficPolicy: {outlierDetection: {consecutive5xxErrors: 1},
  portLevelSettings: [{port: {number: 7}, tls: {mode: ISTIO_MUTUAL}}]}}]}
"""


def test_a_port_replaces_four_blocks_wholesale() -> None:
    policies = read_policies({"mesh.yaml": rule(PORTS.replace("\n", " "))})
    port = policies.for_service("orders", 9)
    assert port.balancing.kind is BalancerKind.ROUND_ROBIN
    assert (port.limits, port.outlier, port.tls) == (ConnectionLimits(), None, None)
    assert port.retry_budget is None  # a port's entry has no field for it, and Istio copies the four blocks only
    other = policies.for_service("orders", 8)
    assert (other.limits.max_connections, other.retry_budget) == (1, RetryBudgetPolicy())


def test_a_subset_overrides_block_by_block() -> None:
    policies = read_policies({"mesh.yaml": rule(PORTS.replace("\n", " "))})
    assert policies.for_service("orders", 8, "bare") == policies.for_service("orders", 8)
    own = policies.for_service("orders", 8, "own")
    assert own.outlier is not None
    assert own.outlier.consecutive_5xx == 1
    assert (own.limits.max_connections, own.balancing.kind) == (1, BalancerKind.RANDOM)
    on_port = policies.for_service("orders", 9, "own")  # the host's entry for the port, then the subset's blocks
    assert (on_port.balancing.kind, on_port.outlier) == (BalancerKind.ROUND_ROBIN, own.outlier)
    wholesale = policies.for_service("orders", 7, "own")  # the subset's entry for the port takes all four
    assert (wholesale.limits, wholesale.outlier) == (ConnectionLimits(), None)
    assert wholesale.balancing.kind is BalancerKind.LEAST_REQUEST
    assert wholesale.retry_budget == RetryBudgetPolicy()


BLOCKS = {
    "limits": "connectionPool: {{tcp: {{maxConnections: {0}}}}}",
    "outlier": "outlierDetection: {{consecutive5xxErrors: {0}}}",
    "balancing": "loadBalancer: {{consistentHash: {{useSourceIp: true, ringHash: {{minimumRingSize: {0}}}}}}}",
    "tls": "tls: {{mode: SIMPLE, sni: s{0}}}",
}


def written(blocks: frozenset[str], number: int, ports: str = "") -> str:
    parts = [BLOCKS[name].format(number) for name in sorted(blocks)]
    return "{" + ", ".join([*parts, ports] if ports else parts) + "}"


CHOSEN = st.frozensets(st.sampled_from(sorted(BLOCKS)), min_size=1)


@given(CHOSEN, st.none() | CHOSEN, st.none() | CHOSEN, st.none() | CHOSEN)
def test_which_block_applies_in_every_combination(
    host: frozenset[str],
    host_port: frozenset[str] | None,
    subset: frozenset[str] | None,
    subset_port: frozenset[str] | None,
) -> None:
    """The model: a port's entry stands for its whole side; of a subset's side only what is there covers the host's."""

    def side(number: int, blocks: frozenset[str], of_port: frozenset[str] | None) -> str:
        entry = f"portLevelSettings: [{{port: {{number: 9}}, {written(of_port, number + 1)[1:]}]" if of_port else ""
        return written(blocks, number, entry)

    own = "" if subset is None else f", trafficPolicy: {side(30, subset, subset_port)}"
    text = f"{{host: orders, trafficPolicy: {side(10, host, host_port)}, subsets: [{{name: s{own}}}]}}"
    found = read_policies({"a": rule(text)}).traffic("orders", 9, "s")
    expected = dict.fromkeys(host_port or host, 11 if host_port else 10)
    if subset is not None:
        expected = dict.fromkeys(subset_port, 31) if subset_port else expected | dict.fromkeys(subset, 30)
    numbers = {
        "limits": found.limits and found.limits.value.max_connections,
        "outlier": found.outlier and found.outlier.value.consecutive_5xx,
        "balancing": found.balancing and found.balancing.value.ring_size_min,
        "tls": found.tls and int(found.tls.value.sni[1:]),
    }
    assert {name: number for name, number in numbers.items() if number is not None} == expected


def test_a_host_nobody_speaks_of_has_the_defaults() -> None:
    assert read_policies({}).for_service("anybody", 1) == Policy()


# Hosts.


@pytest.mark.parametrize(
    ("service", "host"),
    [
        ("shop.v1.Orders", "orders"),
        ("shop.v1.OrderBook", "order-book"),
        ("HTTPCache", "http-cache"),
        ("shop.v1.Top10Lists", "top10-lists"),
    ],
)
def test_a_service_is_the_host_of_its_last_name(service: str, host: str) -> None:
    assert host_of_service(service) == host


def test_a_service_with_a_host_of_another_name() -> None:
    policies = read_policies({}, namespace="shop", hosts={"shop.v1.Orders": "ledger.money"})
    assert policies.host_of("shop.v1.Orders") == "ledger.money.svc.cluster.local"
    assert policies.host_of("shop.v1.Users") == "users.shop.svc.cluster.local"


@pytest.mark.parametrize(
    ("written", "full"),
    [
        ("orders", "orders.shop.svc.cluster.local"),
        ("Orders", "orders.shop.svc.cluster.local"),
        ("orders.other", "orders.other.svc.cluster.local"),
        ("orders.other.svc", "orders.other.svc.cluster.local"),
        ("orders.other.svc.cluster.local.", "orders.other.svc.cluster.local"),
        ("api.example.com", "api.example.com"),
        ("*.example.com", "*.example.com"),
        ("*", "*"),
    ],
)
def test_four_ways_to_write_a_host(written: str, full: str) -> None:
    assert full_name(written, "shop") == full


def test_the_most_specific_host_wins() -> None:
    patterns = ["*", "*.cluster.local", "*.shop.svc.cluster.local", "orders.shop.svc.cluster.local"]
    assert most_specific("orders.shop.svc.cluster.local", patterns) == patterns[3]
    assert most_specific("users.shop.svc.cluster.local", patterns) == patterns[2]
    assert most_specific("users.other.svc.cluster.local", patterns) == patterns[1]
    assert most_specific("api.example.com", patterns) == "*"
    assert most_specific("api.example.com", patterns[1:]) is None


@pytest.mark.parametrize("host", ["", "a b", "-a", "a..b", "a*", "*a*", "é", "a" * 64, "x." * 200 + "x", "a_b/c"])
def test_what_is_no_host(host: str) -> None:
    assert not is_host(host, wildcard=True)


def test_a_wildcard_is_no_host_to_send_to() -> None:
    assert is_host("*.a", wildcard=True)
    assert not is_host("*.a", wildcard=False)


def test_clusters_are_called_as_in_envoys_statistics() -> None:
    assert cluster_name("go.default.svc.cluster.local", 8080) == "outbound|8080||go.default.svc.cluster.local"
    assert cluster_name("go.default.svc.cluster.local", 80, "v1") == "outbound|80|v1|go.default.svc.cluster.local"


def limit(policies: Policies, host: str) -> int:
    return policies.for_service(host).limits.max_connections


def test_the_callers_namespace_is_asked_before_the_hosts_and_istios_own() -> None:
    text = "".join(
        rule(
            "{host: orders.shop.svc.cluster.local,"
            f" trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {n}}}}}}}}}",
            namespace=namespace,
        )
        for n, namespace in enumerate(["shop", "edge", "istio-system", "elsewhere"], start=1)
    )
    assert limit(read_policies({"a": text}, namespace="edge"), "orders.shop") == 2
    assert limit(read_policies({"a": text}, namespace="third"), "orders.shop") == 1
    rest = text.replace("namespace: shop", "namespace: nobody")
    assert limit(read_policies({"a": rest}, namespace="third"), "orders.shop") == 3


# Several rules, and who the caller is.


def test_a_rule_for_callers_with_labels() -> None:
    text = rule("{host: orders, trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}}}", name="all") + rule(
        "{host: orders, workloadSelector: {matchLabels: {app: edge}},"
        " trafficPolicy: {connectionPool: {tcp: {maxConnections: 2}}}}",
        name="edge",
    )
    chosen = read_policies({"a": text}, labels={"app": "edge"})
    assert limit(chosen, "orders") == 2
    assert [warning.code for warning in chosen.warnings] == ["shadowed_policy"]
    left_out = read_policies({"a": text}, labels={"app": "jobs"})
    assert limit(left_out, "orders") == 1
    assert [warning.code for warning in left_out.warnings] == ["no_effect"]


def test_a_policy_comes_from_the_first_rule_that_has_one_and_subsets_from_all(tmp_path: Path) -> None:
    (tmp_path / "1.yaml").write_text(rule("{host: orders, subsets: [{name: a}]}"), encoding="utf-8")
    (tmp_path / "2.yaml").write_text(
        rule("{host: orders, trafficPolicy: {connectionPool: {tcp: {maxConnections: 9}}}, subsets: [{name: b}]}"),
        encoding="utf-8",
    )
    policies = load_policies([tmp_path])
    assert policies.warnings == ()
    assert limit(policies, "orders") == 9
    assert policies.for_service("orders", 0, "a") == policies.for_service("orders", 0, "b")


def test_a_subset_that_is_not_defined_is_unavailable_as_in_envoy() -> None:
    policies = read_policies({"a": rule("{host: orders, subsets: [{name: v1, labels: {version: v1}}]}")})
    with pytest.raises(Unavailable) as raised:
        policies.for_service("orders", 0, "v2")
    assert raised.value.code == "unknown_subset"
    assert "there are v1" in raised.value.message
    with pytest.raises(Unavailable):
        policies.subset_labels("nobody", "v1")
    assert policies.subset_labels("orders", "v1") == {"version": "v1"}
    assert policies.subset_labels("orders", "") == {}


def test_calls_go_by_the_rules_of_their_host() -> None:
    text = routed(
        "{hosts: [orders], http: [{match: [{headers: {x-colour: {exact: green}}}],"
        " route: [{destination: {host: users}}]}]}"
    )
    policies = read_policies({"a": text})
    green = policies.route("orders", Call("/a/b", {"x-colour": "green"}), Random(1))
    assert green is not None
    assert green.destination == Destination("users.default.svc.cluster.local")
    assert policies.route("orders.default.svc.cluster.local", Call("/a/b"), Random(1)) is None
    straight = policies.route("users", Call("/a/b"), Random(1))
    assert straight is not None
    assert straight.destination == Destination("users.default.svc.cluster.local")
    assert straight.retries is not None
    assert straight.retries.attempts == 2
    assert policies.matched_headers() == {"x-colour"}
    assert policies.routes("orders") is policies.routes("orders")


def test_what_depends_on_the_caller_is_settled_when_files_are_read() -> None:
    text = routed(
        "{hosts: [orders], http: ["
        "{match: [{sourceLabels: {app: edge}}], route: [{destination: {host: a}}]},"
        "{match: [{sourceNamespace: shop, gateways: [mesh, front]}], route: [{destination: {host: b}}]},"
        "{match: [{gateways: [mesh]}], route: [{destination: {host: c}}]}]}"
    )

    def host(namespace: str, labels: dict[str, str]) -> str:
        policies = read_policies({"a": text}, namespace=namespace, labels=labels)
        decision = policies.route("orders.default", Call("/"), Random(1))
        assert decision is not None
        assert decision.destination is not None
        return decision.destination.host.partition(".")[0]

    assert host("default", {"app": "edge"}) == "a"
    assert host("default", {"app": "jobs"}) == "c"
    shop = text.replace("hosts: [orders]", "hosts: [orders.default.svc.cluster.local]")
    assert read_policies({"a": shop}, namespace="shop").route("orders.default", Call("/"), Random(1)) is not None


@pytest.mark.parametrize(
    "http", ["", "http: [], ", "http: [{match: [{sourceLabels: {a: b}}], route: [{destination: {host: x}}]}], "]
)
def test_without_a_rule_that_can_apply_calls_go_straight(http: str) -> None:
    policies = read_policies({"a": routed(f"{{{http}hosts: [orders]}}")})
    decision = policies.route("orders", Call("/"), Random(1))
    assert decision is not None
    assert decision.destination == Destination("orders.default.svc.cluster.local")
    assert [warning.code for warning in policies.warnings] == ["no_effect"]


def test_explaining_says_where_each_value_is_from() -> None:
    text = rule("{host: orders, trafficPolicy: {outlierDetection: {interval: 5s}}}") + routed(
        "{hosts: [orders], http: [{timeout: 2s, route: [{destination: {host: orders}}]}]}"
    )
    lines = {line.field: (line.value, line.origin) for line in explain(read_policies({"mesh.yaml": text}), "orders")}
    assert lines["outlier.interval_s"] == ("5 s", "mesh.yaml:5")
    assert lines["outlier.base_ejection_s"] == ("30 s", "default")
    assert lines["limits.max_pending"] == ("no limit", "default")
    assert lines["tls"] == ("off", "default")
    assert lines["http[0].timeout_s"] == ("2 s", "mesh.yaml:10")
    assert lines["http[0].retries"] == ("as by default", "default")
