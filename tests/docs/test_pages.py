"""Pages do not rot: links lead somewhere, and what a page names is still there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.docs.pages import PAGES, ROOMS, ROOT, blocks, broken_links, links, missing_names, unknown_words

ORDER_PAGE = ROOT / "docs" / "path-of-an-order.md"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_linked_name_is_defined_in_the_file_it_links_to(page: Path) -> None:
    assert missing_names(page) == []


@pytest.mark.parametrize("page", [ORDER_PAGE, *ROOMS], ids=name_of)
def test_names_in_code_are_known_to_the_sources(page: Path) -> None:
    assert unknown_words(page) == []


def test_the_path_of_an_order_names_functions_and_no_lines() -> None:
    named = [link for link in links(ORDER_PAGE) if link.name]
    assert len(named) > 30
    assert not [link.target for link in links(ORDER_PAGE) if re.search(r"#L\d|:\d", link.target)]


def test_the_diagram_knows_everybody_in_it() -> None:
    drawn = [block.code for block in blocks(ORDER_PAGE) if block.language == "mermaid"]
    (diagram,) = (code for code in drawn if code.startswith("sequenceDiagram"))
    assert diagram.startswith("sequenceDiagram\n")
    known = set(re.findall(r"participant (\w+) as", diagram))
    arrows = re.findall(r"^\s*(\w+)-?->>(\w+): \S", diagram, re.MULTILINE)
    assert {end for arrow in arrows for end in arrow} == known
    over = re.findall(r"Note over (\w+)", diagram)
    assert set(over) <= known


def test_every_room_has_a_page_and_the_index_leads_to_it() -> None:
    rooms = {p.parent.name for p in (ROOT / "src" / "dougong").glob("*/__init__.py")} - {"cli"}
    assert {page.stem for page in ROOMS} == rooms
    index = {link.file for link in links(ROOT / "docs" / "README.md")}
    assert set(ROOMS) <= index


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    decisions = {p for p in folder.glob("[0-9]*.md") if not p.name.startswith("0000")}
    index = folder / "README.md"
    assert decisions == {link.file for link in links(index)} - {folder / "0000-template.md"}
    numbers = sorted(p.name[:4] for p in decisions)
    assert len(set(numbers)) == len(numbers)
    for page in decisions:
        assert page.read_text().startswith(f"# {page.name[:4]}"), page


def test_the_checks_can_fail(tmp_path: Path) -> None:
    (tmp_path / "here.py").write_text("class There:\n    def be(self): ...\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# A page\n\n[gone](gone.md) [`There.be`](here.py) [`There.not_be`](here.py) [up](#a-page) [down](#b)\n\n"
        "`no_such_word_anywhere` `execute_many` `NoSuchClassAnywhere` `GET /v1/x`\n"
    )
    assert broken_links(page) == ["gone.md: no such file", "#b: no such heading"]
    assert missing_names(page) == ["There.not_be is not defined in here.py"]
    assert [word.split()[0] for word in unknown_words(page)] == [
        "NoSuchClassAnywhere",
        "no_such_word_anywhere",
        "not_be",
    ]
