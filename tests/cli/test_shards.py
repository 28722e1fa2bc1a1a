"""`dougong shards`, as somebody types it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from tests.shard.conftest import set_owner

from dougong.app import configured_layouts, default_system, load_system
from dougong.cli import main
from dougong.shard import BucketState, embedded_layout, open_sharded_store


async def make(folder: Path, *, broken: bool = False, routing: str = "modulo") -> None:
    store = await open_sharded_store(embedded_layout(folder, "users", routing=routing))
    if broken:
        await set_owner(store, "db-1", 5, 2, BucketState.SERVING)
        await set_owner(store, "db-2", 6, None, BucketState.SERVING)
        await set_owner(store, "db-0", 7, 1, BucketState.SERVING)
        await set_owner(store, "db-0", 8, 1, BucketState.FENCED)
    await store.close()


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["shards", *map(str, arguments)])
    captured = capsys.readouterr()
    return int(exit_.value.code or 0), captured.out + captured.err


def test_the_map_for_people_and_for_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(make(tmp_path))
    code, text = run(capsys, "map", "--data", tmp_path)
    assert code == 0
    assert "db-3" in text
    assert "modulo routing, map version 1" in text
    _, text = run(capsys, "map", "--data", tmp_path, "--json")
    document = json.loads(text)
    assert (document["routing"], document["version"], len(document["buckets"])) == ("modulo", 1, 128)
    assert document["buckets"][5] == {"bucket": 5, "shard": "db-1", "epoch": 1, "state": "serving"}


def test_why_explains_a_placement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(make(tmp_path))
    assert run(capsys, "why", "user:133", "--data", tmp_path) == (
        0, "133 % 128 = 5; map version 1 says that bucket 5 is in db-1 under epoch 1 (serving)\n"
    )  # fmt: skip
    _, text = run(capsys, "why", "133", "--data", tmp_path, "--json")
    assert (json.loads(text)["bucket"], json.loads(text)["shard"]) == (5, "db-1")
    code, text = run(capsys, "why", "user:ada", "--data", tmp_path)
    assert (code, "needs a number" in text) == (1, True)


def test_why_of_hashed_keys_finds_the_strategy_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(make(tmp_path, routing="consistent-hash"))
    code, text = run(capsys, "why", "user:ada", "--data", tmp_path)
    assert (code, text.startswith("blake2b('ada') % 128 =")) == (0, True)


def test_verify_names_every_disagreement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(make(tmp_path))
    assert run(capsys, "verify", "--data", tmp_path) == (0, "map and 4 databases agree\n")
    asyncio.run(make(tmp_path, broken=True))
    code, text = run(capsys, "verify", "--data", tmp_path)
    assert code == 1
    for part in (
        "bucket 5: the map says epoch 1",
        "bucket 6: the map says db-2, which does not own it",
        "bucket 7: the map says db-3, but db-0 owns it",
        "bucket 8: the map says serving",
        "4 disagree",
    ):
        assert part in text
    code, text = run(capsys, "verify", "--data", tmp_path, "--json")
    assert (code, len(json.loads(text)["wrong"])) == (1, 4)


def test_a_layout_file_names_the_databases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(make(tmp_path))
    layout = embedded_layout(tmp_path, "users")
    file = tmp_path / "users.toml"
    urls = "".join(f'{name} = "{url}"\n' for name, url in layout.databases.items())
    file.write_text(f'name = "users"\nmetadata = "{layout.metadata}"\n[databases]\n{urls}')
    assert run(capsys, "verify", "--layout", file)[0] == 0
    file.write_text(f'name = "users"\nmetadata = "sqlite:///{tmp_path}/fresh.db"\n[databases]\n{urls}')
    code, text = run(capsys, "map", "--layout", file)
    assert (code, "no_map" in text) == (1, True)  # looking makes no map


def test_nothing_and_too_much_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "map", "--data", tmp_path)
    assert (code, "no_map" in text) == (1, True)
    asyncio.run(make(tmp_path))
    (tmp_path / "orders.map.db").touch()
    code, text = run(capsys, "map", "--data", tmp_path)
    assert (code, "choose with --name" in text) == (1, True)
    assert run(capsys, "map", "--data", tmp_path, "--name", "users")[0] == 0


def test_databases_that_are_configured_are_found_without_a_layout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("DOUGONG_DATABASE_USERS", f"sqlite:///{elsewhere}/u{{number}}.db")
    monkeypatch.setenv("DOUGONG_DATABASE_USERS_MAP", f"sqlite:///{elsewhere}/map.db")
    layout = configured_layouts(load_system(default_system()))["users"]

    async def make_it() -> None:
        await (await open_sharded_store(layout)).close()

    asyncio.run(make_it())
    code, text = run(capsys, "why", "user:133", "--data", tmp_path)
    assert (code, "bucket 5 is in db-1" in text) == (0, True)
    assert run(capsys, "verify", "--data", tmp_path) == (0, "map and 4 databases agree\n")
