from __future__ import annotations

import subprocess
from pathlib import Path

from dougong.evidence import commit_of, describe_machine


def test_the_machine_is_named(tmp_path: Path) -> None:
    machine = describe_machine(tmp_path)
    assert machine.cpu
    assert machine.cores >= 1
    assert machine.memory_gib > 0
    assert machine.sync_ms > 0
    assert {"dougong", "msgspec", "grpcio"} <= machine.versions.keys()
    assert list(tmp_path.iterdir()) == []


def test_the_commit_and_whether_it_is_what_runs(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        settings = ["-c", "user.name=t", "-c", "user.email=t@t.example", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *settings, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    source = tmp_path / "source.py"
    source.write_text("1")
    git("add", "source.py")
    git("commit", "-q", "-m", "first")
    head = git("rev-parse", "HEAD")
    assert commit_of(tmp_path) == head
    source.write_text("2")
    assert commit_of(tmp_path) == f"{head}+changes"


def test_outside_git_the_version_stands_for_the_commit(tmp_path: Path) -> None:
    assert commit_of(tmp_path).startswith("dougong ")
