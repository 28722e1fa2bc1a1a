"""`dougong simulate`, as a person runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.simulation.test_story import declare

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    declare(tmp_path, "counter = tests.simulation.counter:counter")
    paths = [str(tmp_path), str(ROOT), *sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200"}


def simulate(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dougong", "simulate", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_without_a_name_it_lists_stories_with_their_safeguards(environment: dict[str, str]) -> None:
    done = simulate(environment)
    assert done.returncode == 0
    assert "counter a counter that is added to" in " ".join(done.stdout.split())
    assert "care: read and write in one unit" in done.stdout
    listed = json.loads(simulate(environment, "--json").stdout)
    assert {
        "name": "counter",
        "title": "a counter that is added to",
        "safeguards": {"care": "read and write in one unit"},
    } in listed


def test_nothing_found_is_success_and_says_which_seeds(environment: dict[str, str]) -> None:
    done = simulate(environment, "counter", "--seeds", "30")
    assert done.returncode == 0, done.stderr
    assert "counter: nothing found in 30 seeds from " in done.stdout


def test_a_violation_is_told_shrunk_and_can_be_told_again(environment: dict[str, str]) -> None:
    done = simulate(
        environment, "counter", "--seeds", "300", "--first-seed", "100", "--without", "care", "--workers", "1"
    )
    assert done.returncode == 1
    assert "were acknowledged" in done.stdout
    assert "with the fewest faults found" in done.stdout
    command = done.stdout.split("tell it again: ")[1].split()
    assert command[:4] == ["dougong", "simulate", "counter", "--seed"]
    again = simulate(environment, *command[2:])
    assert again.returncode == 1
    assert again.stdout == simulate(environment, *command[2:]).stdout
    assert "invoke add" in again.stdout
    assert "were acknowledged" in again.stderr
    document = json.loads(
        simulate(
            environment,
            "counter",
            "--seeds",
            "300",
            "--first-seed",
            "100",
            "--without",
            "care",
            "--json",
            "--no-shrink",
        ).stdout
    )
    assert document["failed"]["violations"]
    assert document["fewest_faults"] is None
    assert document["replay"].startswith("dougong simulate counter --seed ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nobody"], "there is no story 'nobody'"),
        (["counter", "--without", "luck"], "has no safeguard 'luck'; it has: care"),
        (["counter", "--seeds", "0"], "--seeds must be 1 or more"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(environment: dict[str, str], arguments: list[str], says: str) -> None:
    done = simulate(environment, *arguments)
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_interrupting_ends_cleanly_and_says_how_far_it_got(environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "dougong", "simulate", "counter", "--seeds", "10000000", "--workers", "1"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:  # until it is under way
        if " of 10,000,000 seeds" in line:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped after" in errors
    assert "Traceback" not in errors
