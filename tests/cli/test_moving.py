"""`dougong shards move` and its like, as somebody types them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from tests.cli.test_shards import run

from dougong.errors import Unavailable
from dougong.shard import Mover, ShardedTable, embedded_layout, open_sharded_store
from dougong.store import Migration, Tx


@pytest.fixture
def data(tmp_path: Path) -> Path:
    async def fill() -> None:
        store = await open_sharded_store(embedded_layout(tmp_path, "users", databases=2))
        await store.migrate("t", [Migration(1, "users", "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")])
        await store.declare(ShardedTable("users"))

        async def rows(tx: Tx) -> None:
            await tx.execute_many("INSERT INTO users VALUES (?, 'ada')", [(17 + 128 * n,) for n in range(50)])

        await store.store_at(17).write(rows)
        await store.close()

    asyncio.run(fill())
    return tmp_path


def test_there_and_back(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "move", 17, "--to", "db-2", "--data", data)
    assert code == 0
    assert "bucket 17 is in db-2 now; db-1 keeps a copy until you `complete` or `reverse` (50 rows copied" in text
    code, text = run(capsys, "moves", "--data", data)
    assert (code, "reversible" in text) == (0, True)
    code, text = run(capsys, "reverse", 17, "--data", data, "--json")
    assert (json.loads(text)["outcome"], json.loads(text)["source"]) == ("reversible", "db-1")
    code, text = run(capsys, "complete", 17, "--data", data)
    assert "bucket 17 is back in db-1, and nowhere else" in text
    code, text = run(capsys, "moves", "--data", data, "--json")
    assert [(record["bucket"], record["outcome"]) for record in json.loads(text)] == [(17, "reversed")]
    assert run(capsys, "verify", "--data", data)[0] == 0


def test_all_at_once(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "move", 17, "--to", "db-2", "--complete", "--share", "1", "--data", data)
    assert (code, "bucket 17 is in db-2, and nowhere else" in text) == (0, True)


def test_a_plan_and_its_moves(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "rebalance", "--to", 3, "--dry-run", "--data", data)
    assert (code, "of 128 buckets would move" in text) == (0, True)
    _, planned = run(capsys, "rebalance", "--to", 3, "--dry-run", "--json", "--data", data)
    code, text = run(capsys, "rebalance", "--to", 3, "--share", "1", "--data", data)
    assert (code, f"{len(json.loads(planned))} buckets moved; they lie over db-0, db-1, db-2" in text) == (0, True)
    assert json.loads(run(capsys, "rebalance", "--to", 3, "--dry-run", "--json", "--data", data)[1]) == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("move", 17, "--to", "nowhere"), "unknown_shard"),
        (("move", 17, "--to", "db-1"), "already_there"),
        (("move", 128, "--to", "db-0"), "bad_bucket"),
        (("move", 17, "--to", "db-0", "--share", "0"), "bad_share"),
        (("pause", 17), "no_move"),
        (("resume", 17), "no_move"),
        (("cancel", 17), "no_move"),
        (("reverse", 17), "no_move"),
        (("complete", 17), "no_move"),
        (("rebalance", "--to", 0), "unknown_shard"),
        (("rebalance", "--to", 200), "bad_shards"),
    ],
)
def test_what_cannot_be_done_is_said(
    data: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], code: str
) -> None:
    failed, text = run(capsys, *arguments, "--data", data)
    assert (failed, code in text) == (1, True), text
    assert json.loads(run(capsys, "moves", "--json", "--data", data)[1]) == []


def test_triggers_that_were_left_are_taken_away(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise Unavailable("in use", code="table_busy")

    with monkeypatch.context() as patch:
        patch.setattr("dougong.shard.moving.mover._TIDY_AFTER_S", (0.0,))
        patch.setattr(Mover, "_remove", fails)
        assert run(capsys, "move", 17, "--to", "db-2", "--complete", "--data", data)[0] == 0
        assert "db-1, db-2: triggers of moves that are over" in run(capsys, "moves", "--data", data)[1]
        code, text = run(capsys, "tidy", "--json", "--data", data)
        assert (code, '{"done":[],"busy":["db-1","db-2"]}' in text.splitlines()) == (1, True)  # logs stand around it
        code, text = run(capsys, "tidy", "--data", data)
        assert (code, "nothing was taken away\nin use: db-1, db-2; try again later\n" in text) == (1, True)
    assert run(capsys, "tidy", "--data", data) == (0, "no triggers are left in db-1, db-2\n")
    assert run(capsys, "tidy", "--data", data) == (0, "no triggers were left of moves that are over\n")
    assert "triggers" not in run(capsys, "moves", "--data", data)[1]


def test_nothing_ever_moved(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "moves", "--data", data) == (0, "no bucket ever moved\n")


def test_the_wrong_moment_is_said(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "move", 17, "--to", "db-2", "--data", data)
    failed, text = run(capsys, "cancel", 17, "--data", data)
    assert (failed, "wrong_phase" in text, "possible are reverse, complete" in text) == (1, True, True)
