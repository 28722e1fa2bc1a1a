"""What was up on a data directory leads the commands to its registry."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.app.conftest import GREETER

from dougong.app import UpNote, read_note, registry_url, running_registry_url
from dougong.app._note import write_note
from dougong.errors import NotFound, Unavailable


def test_a_note_is_read_as_written_and_garbage_is_none(tmp_path: Path) -> None:
    assert read_note(tmp_path) is None
    write_note(tmp_path, UpNote("/x/system.toml", "cluster"))
    assert read_note(tmp_path) == UpNote("/x/system.toml", "cluster")
    assert [path.name for path in tmp_path.iterdir()] == ["up.json"]
    for garbage in (b"{", b'{"system": "\xff"}'):
        (tmp_path / "up.json").write_bytes(garbage)
        assert read_note(tmp_path) is None
    (tmp_path / "up.json").unlink()
    (tmp_path / "up.json").mkdir()
    with pytest.raises(Unavailable, match="bad_data"):
        write_note(tmp_path, UpNote("/x/system.toml"))


def test_the_registry_is_the_profiles_unless_the_environment_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = tmp_path / "system.toml"
    system.write_text(f'name = "sample"\n{GREETER}[profiles.cluster]\nregistry = "local:///elsewhere"\n')
    assert running_registry_url(tmp_path) == registry_url(tmp_path)
    write_note(tmp_path, UpNote(str(system), "cluster"))
    assert running_registry_url(tmp_path) == "local:///elsewhere"
    monkeypatch.setenv("DOUGONG_REGISTRY", "memory://")  # one process's own is nobody else's
    assert running_registry_url(tmp_path) == "local:///elsewhere"
    monkeypatch.setenv("DOUGONG_REGISTRY", "local:///outside")
    assert running_registry_url(tmp_path) == "local:///outside"


def test_a_file_that_went_is_told_unless_the_directory_has_a_registry(tmp_path: Path) -> None:
    write_note(tmp_path, UpNote(str(tmp_path / "gone.toml"), "cluster"))
    with pytest.raises(NotFound, match=r"gone\.toml"):
        running_registry_url(tmp_path)
    (tmp_path / "registry.db").touch()
    assert running_registry_url(tmp_path) == registry_url(tmp_path)
