"""`dougong mesh`: files read, values explained, and what policy did in a running system."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Command

RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders}
spec:
  host: orders
  trafficPolicy:
    outlierDetection: {interval: 5s}
"""


def test_good_files_are_read(dougong: Command, tmp_path: Path) -> None:
    file = tmp_path / "rule.yaml"
    file.write_text(RULE)
    ran = dougong("mesh", "check", file)
    assert (ran.code, ran.out) == (0, "read; 0 warnings\n")
    assert dougong("mesh", "check", tmp_path, "--json").json == {"warnings": []}


def test_what_is_not_enforced_is_a_warning(dougong: Command, tmp_path: Path) -> None:
    file = tmp_path / "rule.yaml"
    file.write_text(RULE + "    tunnel: {targetHost: a, targetPort: 80}\n")
    (warning,) = dougong("mesh", "check", file, "--json").json["warnings"]
    assert warning["field"] == "spec.trafficPolicy.tunnel"
    assert warning["at"].startswith(f"{file}:9:")


def test_a_fault_has_its_line(dougong: Command, tmp_path: Path) -> None:
    file = tmp_path / "rule.yaml"
    file.write_text(RULE.replace("interval: 5s", "interval: soon"))
    ran = dougong("mesh", "check", file)
    assert ran.code == 1
    assert f"{file}:8" in ran.err


def test_values_are_explained(dougong: Command, tmp_path: Path) -> None:
    file = tmp_path / "rule.yaml"
    file.write_text(RULE)
    lines = {line["field"]: line for line in dougong("mesh", "explain", "orders", "--file", file, "--json").json}
    assert lines["outlier.interval_s"] == {"field": "outlier.interval_s", "value": "5 s", "origin": f"{file}:8"}
    assert lines["outlier.consecutive_5xx"]["origin"] == "default"
    assert dougong("mesh", "explain", "shop.v1.Orders", "--file", file, "--json").json == list(lines.values())
    assert "outlier.interval_s" in dougong("mesh", "explain", "orders", "--file", file).out
    missing = dougong("mesh", "explain", "orders", "--subset", "v9", "--file", file)
    assert missing.code == 1
    assert "has a subset 'v9'" in missing.err


def test_the_shops_own_policy_holds(dougong: Command) -> None:
    lines = {line["field"]: line["value"] for line in dougong("mesh", "explain", "fulfilment", "--json").json}
    assert lines["limits.max_pending"] == "100"
    assert lines["limits.max_requests_per_connection"] == "10"
    assert lines["outlier.consecutive_5xx"] == "5"
    assert (lines["outlier.interval_s"], lines["outlier.base_ejection_s"]) == ("30 s", "60 s")


def test_nobody_there_to_ask(dougong: Command, tmp_path: Path) -> None:
    ran = dougong("mesh", "stats", "edge", "--data", tmp_path)
    assert ran.code == 1
    assert "no system has been up" in ran.err
