from __future__ import annotations

from pathlib import Path

import pytest

from dougong.declared import Kind
from dougong.errors import Invalid

TABLES = Kind("tests.tables", "table")

METADATA = """\
Metadata-Version: 2.1
Name: furniture
Version: 1
Requires-Dist: msgspec>=0.1
Requires-Dist: no-such.wood[oak]>=2,<3; (python_version >= "3") and extra == "heavy"
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project on sys.path that declares tables, one of them of a wood that is not here."""
    info = tmp_path / "furniture-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA)
    (info / "entry_points.txt").write_text(
        "[tests.tables]\n"
        "round = furniture_tables:ROUND\n"
        "lost = furniture_tables:NOTHING\n"
        "gone = furniture_gone:TABLE\n"
        "oak = furniture_oak:TABLE\n"
        "glass = furniture_glass:TABLE\n"
        "[tests.chairs]\n"
        "stool = furniture_tables:STOOL\n"
    )
    (tmp_path / "furniture_tables.py").write_text("ROUND = 'a round one'\n")
    (tmp_path / "furniture_oak.py").write_text("import no_such_wood.planks\n")
    (tmp_path / "furniture_glass.py").write_text("import msgspec.no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_only_the_one_asked_for_is_loaded() -> None:
    assert TABLES.load("round") == "a round one"


def test_names_are_known_without_loading_any() -> None:
    assert TABLES.names() == ["glass", "gone", "lost", "oak", "round"]
    assert Kind("tests.beds", "bed").names() == []


def test_an_unknown_one_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(Invalid, match="no table 'square'; there are: glass, gone, lost, oak, round") as refused:
        TABLES.load("square")
    assert refused.value.code == "not_declared"
    with pytest.raises(Invalid, match="there is no bed 'wide'; there are: none"):
        Kind("tests.beds", "bed").load("wide")


def test_who_lacks_an_extra_is_told_which() -> None:
    with pytest.raises(Invalid) as refused:
        TABLES.load("oak")
    assert refused.value.code == "missing_extra"
    lacks = "table 'oak' needs no_such_wood, which is not installed; pip install 'furniture[heavy]'"
    assert refused.value.message == lacks


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gone", r"\(furniture_gone:TABLE\) cannot be loaded: No module named 'furniture_gone'"),
        ("lost", r"\(furniture_tables:NOTHING\) cannot be loaded: .*no attribute 'NOTHING'"),
        ("glass", r"\(furniture_glass:TABLE\) cannot be loaded: No module named 'msgspec.no_such_module'"),
    ],
)
def test_one_that_cannot_be_loaded_is_named(name: str, says: str) -> None:
    with pytest.raises(Invalid, match=f"entry point '{name}' of tests.tables {says}") as refused:
        TABLES.load(name)
    assert refused.value.code == "entry_point"
