"""Policy files of a system: calls follow them, a canary is reached by its colour, faults in a file stop the start."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from tests.app.conftest import FRONT, GREETER, running

from dougong.app import load_mesh, load_system
from dougong.errors import Invalid
from dougong.evidence.engines import free_port

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("supervisor")]

MESH = '[mesh]\npolicies = ["policy"]\n'
RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: greeter}
spec:
  host: greeter
  subsets:
  - {name: stable, labels: {version: stable}}
  - {name: canary, labels: {version: canary}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: greeter}
spec:
  hosts: [greeter]
  http:
  - match: [{headers: {x-dougong-colour: {exact: canary}}}]
    route: [{destination: {host: greeter, subset: canary}}]
  - route: [{destination: {host: greeter, subset: stable}}]
"""


def policy(tmp_path: Path, text: str = RULE) -> None:
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "greeter.yaml").write_text(text)


async def test_a_canary_is_reached_by_its_colour_alone(tmp_path: Path) -> None:
    policy(tmp_path)
    port = free_port()
    apps = f'{GREETER}version = "stable"\ncanaries = 1\n{FRONT.format(port=port)}{MESH}'
    async with running(tmp_path, apps) as it, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
        stable, canary, _ = it.supervisor.processes
        assert [(p.name, p.version) for p in (stable, canary)] == [("greeter-0", "stable"), ("greeter-1", "canary")]

        async def pids(**headers: str) -> set[int]:
            found: set[int] = set()
            for _ in range(20):
                async with http.get("/v1/hello/bo", headers=headers) as response:
                    found.add((await response.json())["pid"])
            return found

        assert await pids() == {stable.pid}
        assert await pids(**{"x-dougong-colour": "canary"}) == {canary.pid}
        assert await pids(baggage="a=b,x-dougong-colour=canary") == {canary.pid}
        assert await pids(**{"x-dougong-colour": "green"}) == {stable.pid}


def test_a_fault_in_a_policy_names_its_place(tmp_path: Path) -> None:
    policy(tmp_path, RULE.replace("host: greeter\n", "host: greeter\n  trafficPolicy: {outlierDetektion: {}}\n", 1))
    path = tmp_path / "system.toml"
    path.write_text(f'name = "sample"\n{GREETER}{MESH}')
    with pytest.raises(Invalid, match=r"greeter\.yaml:7:.*outlierDetection"):
        load_mesh(load_system(path), path, "greeter")


def test_a_system_without_policy_has_none(tmp_path: Path) -> None:
    path = tmp_path / "system.toml"
    path.write_text(f'name = "sample"\n{GREETER}')
    assert load_mesh(load_system(path), path, "greeter") is None
    assert load_mesh(None, path, "greeter") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[mesh]\n", "policies"),
        ('[mesh]\npolicies = ["p"]\nmode = "loose"\n', "mode"),
        (f"{GREETER}canaries = 65\n", "0 to 64"),
    ],
)
def test_what_is_wrong_with_it_is_said(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "system.toml"
    path.write_text(f'name = "sample"\n{text if "apps" in text else GREETER + text}')
    with pytest.raises(Invalid, match=said):
        load_system(path)
