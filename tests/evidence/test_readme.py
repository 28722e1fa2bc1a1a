"""The README's table of claims."""

from __future__ import annotations

from pathlib import Path

import pytest

from dougong.errors import Invalid
from dougong.evidence import Machine, Report, write_claims


def report(*, holds: bool | None) -> Report:
    machine = Machine(
        cpu="A processor",
        cores=2,
        memory_gib=24.0,
        system="Linux",
        python="CPython 3.11.7",
        sync_ms=0.2,
        load=0.1,
        versions={},
    )
    return Report(
        claim="orders",
        title="Orders",
        situation="",
        task="",
        action="",
        result="9,000/s" if holds is not None else "",
        holds=holds,
        why="because",
        ours={},
        baseline={},
        ratio={},
        judgements=(),
        problems=(),
        pairs=1,
        quick=True,
        seed=1,
        commit="abc",
        machine=machine,
        started="2026-01-02T03:04:05+00:00",
        seconds=1.0,
    )


@pytest.mark.parametrize(
    ("holds", "words"), [(True, "holds"), (False, "**does not hold**: because"), (None, "not shown here")]
)
def test_the_table_says_what_was_measured_and_replaces_the_old_one(
    tmp_path: Path, holds: bool | None, words: str
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- claims -->\nold table\n<!-- /claims -->\nafter\n")
    write_claims(readme, [report(holds=holds)])
    write_claims(readme, [report(holds=holds)])
    text = readme.read_text()
    assert text.startswith("before\n<!-- claims -->\n|")
    assert text.endswith("<!-- /claims -->\nafter\n")
    assert "old table" not in text
    assert text.count("| `orders`: ") == 1
    assert "`orders` measured 2026-01-02 at commit `abc`" in text
    assert f"| {words} |" in text
    assert "2026-01-02" in text


def test_a_file_without_a_place_for_it_is_named_and_left_alone(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("nothing here\n")
    with pytest.raises(Invalid, match=r"README\.md"):
        write_claims(readme, [report(holds=True)])
    assert readme.read_text() == "nothing here\n"
