"""Every example runs as a reader would run it: copied into a file, in an empty directory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs.pages import PAGES, ROOMS, Block, blocks

EXAMPLES = [block for page in PAGES for block in blocks(page) if block.language == "python" and block.info != "no-run"]
LINES_MAX = 40
TIMEOUT_S = 60


def run(code: str, folder: Path) -> str:
    """What the program prints; its own directory, every warning an error."""
    file = folder / "example.py"
    file.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", file.name],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def stripped(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: block.id)
def test_an_example_runs_and_prints_what_the_page_says(block: Block, tmp_path: Path) -> None:
    printed = run(block.code, tmp_path)
    assert stripped(printed) == stripped(block.prints or "")


@pytest.mark.parametrize("page", ROOMS, ids=lambda page: page.stem)
def test_a_room_shows_short_examples(page: Path) -> None:
    examples = [block for block in EXAMPLES if block.page == page]
    assert examples
    for example in examples:
        assert example.prints is not None
        assert len([line for line in example.code.splitlines() if line.strip()]) < LINES_MAX


def test_a_wrong_example_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no_such_name"):
        run("print(no_such_name)", tmp_path)
