"""structlog without what it loads for tracebacks that we never print."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOADED = "import sys, dougong.telemetry, structlog; print(*sorted({'rich', 'pygments', 'attr'} & sys.modules.keys()))"


@pytest.mark.parametrize(
    ("before", "loaded"),
    [
        ("", ""),
        ("import structlog; ", "attr pygments rich"),  # the ablation, and who wants it, has it
        ("import rich; ", "attr pygments rich"),
    ],
)
def test_rich_is_loaded_for_who_wants_it_only(before: str, loaded: str) -> None:
    ran = subprocess.run(
        (sys.executable, "-c", before + LOADED), capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.strip() == loaded


def test_rich_can_be_loaded_afterwards() -> None:
    code = "import dougong.telemetry, rich.console; print(rich.console.Console)"
    ran = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True, timeout=60)
    assert "Console" in ran.stdout
