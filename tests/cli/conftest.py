"""Commands, in this process and as real ones."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.app.conftest import PATIENCE_S, no_settings_from_outside, telemetry_restored

from dougong.cli import application, main
from dougong.errors import Error

__all__ = ["no_settings_from_outside", "telemetry_restored"]


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Ran]
Here = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def dougong(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run `dougong …` in this process."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*arguments: object) -> Ran:
        with pytest.raises(SystemExit) as caught:
            main(list(map(str, arguments)))
        said = capsys.readouterr()
        code = caught.value.code
        return Ran(code if isinstance(code, int) else 0, said.out, said.err)

    return run


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    """Run `dougong …` on this loop, which serves meanwhile: exit code, output, error."""
    monkeypatch.setenv("COLUMNS", "220")

    async def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            command = application().run_async(list(map(str, arguments)), result_action="return_value")
            async with asyncio.timeout(PATIENCE_S):
                code = await command
        except Error as error:
            return 1, "", str(error)
        return int(code or 0), *capsys.readouterr()

    return run


def as_process(*arguments: object, cwd: Path | None = None) -> Ran:
    """Run `dougong …` as a process."""
    done = subprocess.run(
        [sys.executable, "-m", "dougong", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)
