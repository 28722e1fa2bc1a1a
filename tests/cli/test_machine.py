"""`dougong machine` prints what the declaration says."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.conftest import Command

DOOR = """
from dougong.statemachine import Machine, Rule, State

class Door(Machine[int], table="doors"):
    states = (State("open", initial=True), State("shut", final=True))
    rules = (Rule("open", "close", "shut"),)

class NoMachine:
    pass
"""


@pytest.fixture(autouse=True)
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "door_machine.py").write_text(DOOR)
    monkeypatch.syspath_prepend(tmp_path)


def test_diagram_and_schema(dougong: Command) -> None:
    ran = dougong("machine", "diagram", "door_machine:Door")
    assert (ran.code, ran.out) == (
        0,
        "stateDiagram-v2\n    [*] --> open\n    open --> shut : close\n    shut --> [*]\n",
    )
    ran = dougong("machine", "diagram", "door_machine:Door", "--svg")
    assert ran.out.startswith("<svg ")
    ran = dougong("machine", "schema", "door_machine:Door")
    assert "ALTER TABLE doors ADD COLUMN state TEXT NOT NULL DEFAULT 'open';\n" in ran.out
    ran = dougong("machine", "schema", "door_machine:Door", "--dialect", "postgresql")
    assert "ADD COLUMN due_us BIGINT;\n" in ran.out


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("Door", "not of the form module:Class"),
        ("no_such_module:Door", "no module named 'no_such_module'"),
        ("door_machine:NoMachine", "has no Machine called 'NoMachine'"),
        ("door_machine:Missing", "has no Machine called 'Missing'"),
    ],
)
def test_what_is_no_machine(dougong: Command, target: str, said: str) -> None:
    ran = dougong("machine", "diagram", target)
    assert ran.code == 1
    assert said in ran.err
