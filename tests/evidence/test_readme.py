from __future__ import annotations

from pathlib import Path

import pytest

from dougong.errors import Invalid
from dougong.evidence import Report, write_claims
from dougong.evidence.machine import Machine


def report(claim: str, holds: bool | None, result: str, why: str = "", commit: str = "a" * 40) -> Report:
    machine = Machine(
        cpu="Some CPU", cores=2, memory_gib=24.0, system="", python="", sync_ms=0.1, load=0.0, versions={}
    )
    return Report(
        claim=claim,
        title="",
        situation="",
        task="",
        action="",
        result=result,
        holds=holds,
        why=why,
        ours={},
        baseline={},
        ratio={},
        judgements=(),
        problems=(),
        pairs=6,
        quick=False,
        seed=1,
        commit=commit,
        machine=machine,
        started="2026-11-23T21:56:29+00:00",
        seconds=1.0,
    )


def test_lines_are_written_and_others_kept(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- claims -->\n<!-- /claims -->\nafter\n")
    write_claims(readme, [report("orders", True, "1 | 2"), report("ids", None, "", "not shown here, because x")])
    first = readme.read_text()
    assert first.splitlines() == [
        "before",
        "<!-- claims -->",
        "| claim | result | measured |",
        "| --- | --- | --- |",
        "| `ids` not shown | not shown here, because x | 2026-11-23, 2 cores Some CPU, aaaaaaaaaaaa |",
        "| `orders` holds | 1 \\| 2 | 2026-11-23, 2 cores Some CPU, aaaaaaaaaaaa |",
        "<!-- /claims -->",
        "after",
    ]
    write_claims(readme, [report("orders", False, "3.", "ours.x is 1, not ≥ 2", commit="b" * 40 + "+changes")])
    second = readme.read_text().splitlines()
    assert second[4] == first.splitlines()[4]
    assert second[5] == (
        "| `orders` **does not hold** | 3. But ours.x is 1, not ≥ 2. "
        "| 2026-11-23, 2 cores Some CPU, bbbbbbbbbbbb with changes |"
    )


def test_a_file_without_the_marks_is_left_alone(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("nothing here <!-- claims -->")
    with pytest.raises(Invalid, match="no place for the table"):
        write_claims(readme, [])
    assert readme.read_text() == "nothing here <!-- claims -->"
