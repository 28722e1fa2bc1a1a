"""What Prometheus is told about pools: as much as they did, whatever becomes of them."""

from __future__ import annotations

import asyncio

import pytest
from tests.rpc.conftest import Lab, closed_gate, until
from tests.rpc.example import Answer, Ask, Example

from dougong.errors import Overloaded
from dougong.mesh import Mesh, read_policies
from dougong.rpc import close_client
from dougong.telemetry import render_prometheus

POLICY = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: example}
spec:
  host: example
  trafficPolicy: {connectionPool: {http: {http2MaxRequests: 2, maxRequestsPerConnection: 4}}}
"""
CLUSTER = "outbound|0||example.metered.svc.cluster.local"


def metered() -> dict[str, int]:
    """What is not 0 of this cluster."""
    found: dict[str, int] = {}
    for line in render_prometheus().splitlines():
        if CLUSTER in line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            name = series.removeprefix("dougong_rpc_pool_").replace(f'cluster="{CLUSTER}"', "")
            found[name.replace("{}", "").replace("{,", "{")] = int(value)
    return {name: value for name, value in found.items() if value}


async def test_pools_are_metered(memory_lab: Lab) -> None:
    example = Example()
    mesh = Mesh(read_policies({"policy.yaml": POLICY}, namespace="metered"))
    remote = memory_lab.call((await memory_lab.serve(example)).address, mesh=mesh)
    with closed_gate(example):
        under_way = [asyncio.create_task(remote.get(Ask())), asyncio.create_task(remote.look(Ask()))]
        await until(lambda: example.entered == 2)
        with pytest.raises(Overloaded):
            await remote.get(Ask())
        seen = metered()
    assert [isinstance(answer, Answer) for answer in await asyncio.gather(*under_way)] == [True, True]
    assert (seen["connections"], seen["streams"], seen["active"]) == (1, 1, 2)
    assert seen['overflow_total{limit="requests"}'] == 1
    for _ in range(4):
        await remote.get(Ask())
    await close_client(remote)
    after = metered()
    assert {"connections", "streams", "active", "pending"}.isdisjoint(after), "nothing is there any more"
    assert after['created_total{what="connection"}'] == 2
    assert after['created_total{what="stream"}'] == 1
    assert after['retired_total{reason="requests"}'] == 1
    assert after["reused_total"] >= 4
    assert metered() == after, "counted once"
