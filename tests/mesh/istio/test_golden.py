"""Files and what comes of them: effective policy and rules, or every fault with its line. `--rewrite` writes anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from dougong.errors import Invalid
from dougong.mesh.istio import Policies, explain, read_policies, render

FOLDER = Path(__file__).parent / "golden"
FILES = sorted(FOLDER.glob("*.yaml"))


def told(policies: Policies, *, defaults: bool) -> str:
    parts = [str(warning) for warning in policies.warnings]
    for host, subset, port in policies.clusters():
        lines = explain(policies, host.replace("*", "any"), subset, port)
        lines = tuple(line for line in lines if not (port or subset) or not line.field.startswith("http["))
        shown = tuple(line for line in lines if defaults or line.origin != "default")
        heading = f"{host} port {port or 'any'} subset {subset or 'none'}"
        parts += ["", heading, render(shown) if shown else "only defaults"]
    return "\n".join(parts) + "\n"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_comes_of_a_file(file: Path, request: pytest.FixtureRequest) -> None:
    try:
        policies = read_policies({file.name: file.read_bytes()}, namespace="default")
        found = told(policies, defaults=file.stem == "defaults")
    except Invalid as error:
        found = f"refused: {error.code}\n{error.message}\n"
    expected = file.with_suffix(".expected")
    if request.config.getoption("--rewrite"):
        expected.write_text(found, encoding="utf-8")
    assert found == expected.read_text(encoding="utf-8")


def test_every_expectation_has_its_file() -> None:
    assert {file.stem for file in FOLDER.glob("*.expected")} == {file.stem for file in FILES}
