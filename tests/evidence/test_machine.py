from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

from dougong.evidence import commit_of, describe_machine, tree_of


def test_the_machine_is_named(tmp_path: Path) -> None:
    machine = describe_machine(tmp_path)
    assert machine.cpu
    assert machine.cores >= 1
    assert machine.memory_gib > 0
    assert machine.sync_ms > 0
    assert {"dougong", "msgspec", "grpcio"} <= machine.versions.keys()
    assert list(tmp_path.iterdir()) == []


def git_in(directory: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=t", "-c", "user.email=t@t.example", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(directory), *settings, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_and_whether_it_is_what_runs(tmp_path: Path) -> None:
    git = partial(git_in, tmp_path)
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


def test_the_tree_of_the_sources_is_the_same_in_every_commit_until_they_change(tmp_path: Path) -> None:
    git = partial(git_in, tmp_path)
    git("init", "-q")
    package = tmp_path / "src" / "shop"
    package.mkdir(parents=True)
    source, page = package / "source.py", tmp_path / "page.md"
    source.write_text("1")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    first = tree_of(package)
    assert first == "src:" + git("rev-parse", "HEAD:src")
    page.write_text("about it")
    git("add", ".")
    git("commit", "-q", "-m", "a page")
    page.write_text("more about it")
    assert tree_of(package) == first
    assert tree_of(tmp_path) == ":" + git("rev-parse", "HEAD^{tree}") + "+changes"
    source.write_text("2")
    assert tree_of(package) == f"{first}+changes"
    git("commit", "-q", "-a", "-m", "second")
    assert tree_of(package) not in {first, f"{first}+changes"}


def test_outside_git_there_is_no_tree(tmp_path: Path) -> None:
    assert tree_of(tmp_path) == ""
