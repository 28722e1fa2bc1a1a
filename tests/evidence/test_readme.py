"""The README's table of claims."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from dougong.errors import Invalid
from dougong.evidence import Machine, Report, write_claims


def report(*, holds: bool | None, claim: str = "orders", tree: str = "src:abc") -> Report:
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
        claim=claim,
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
        commit="123",
        tree=tree,
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
    assert f"| {words} | 2026-01-02 `src:abc` |" in text
    assert "`orders` measured on 2 cores (A processor), 24.0 GiB, CPython 3.11.7.\n" in text


def test_a_file_without_a_place_for_it_is_named_and_left_alone(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("nothing here\n")
    with pytest.raises(Invalid, match=r"README\.md"):
        write_claims(readme, [report(holds=True)])
    assert readme.read_text() == "nothing here\n"


def test_claims_that_were_not_measured_again_stay(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- claims -->\n<!-- /claims -->\n")
    write_claims(readme, [report(holds=True, claim=claim) for claim in ("tcc", "orders", "ids")])
    write_claims(readme, [report(holds=False, claim="orders", tree="src:def")])
    text = readme.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == ["ids", "orders", "tcc"]
    assert [row.split(" | ")[-1] for row in rows] == [
        "2026-01-02 `src:abc` |",
        "2026-01-02 `src:def` |",
        "2026-01-02 `src:abc` |",
    ]
    assert ["because" in row for row in rows] == [False, True, False]
    assert "`ids`, `orders`, `tcc` measured on 2 cores (A processor), 24.0 GiB, CPython 3.11.7.\n" in text
    assert text.count("9,000/s") == 3


def test_claims_of_another_machine_keep_its_name(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("<!-- claims -->\n<!-- /claims -->\n")
    write_claims(readme, [report(holds=True, claim=claim) for claim in ("tcc", "orders", "ids")])
    other = report(holds=True, claim="orders")
    write_claims(readme, [structs.replace(other, machine=structs.replace(other.machine, cpu="Another"))])
    assert "`ids`, `tcc` measured on 2 cores (A processor)" in readme.read_text()
    assert "; `orders` measured on 2 cores (Another)" in readme.read_text()
