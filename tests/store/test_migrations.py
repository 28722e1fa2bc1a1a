"""Schema steps: in order, once, under a lock, all or none."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.errors import Conflict, Error, Internal, Invalid
from dougong.store import Migration, Store, migrations_from, open_store
from dougong.store._migrate import statements

ONE = Migration(1, "one", "CREATE TABLE one (id INTEGER)")
TWO = Migration(2, "two", "CREATE TABLE two (id INTEGER); INSERT INTO two VALUES (2);")


async def tables(store: Store) -> set[object]:
    return {row[0] for row in await store.fetch_all("SELECT name FROM sqlite_schema WHERE type = 'table'")}


async def test_what_is_missing_is_applied_once(store: Store) -> None:
    assert await store.migrate("app", [ONE]) == 1
    assert await store.migrate("app", [ONE, TWO]) == 1
    assert await store.migrate("app", [ONE, TWO]) == 0
    assert await store.fetch_all("SELECT * FROM two") == [(2,)]
    rows = await store.fetch_all("SELECT number, name FROM dougong_migrations WHERE owner = 'app' ORDER BY number")
    assert rows == [(1, "one"), (2, "two")]


async def test_owners_number_independently(store: Store) -> None:
    await store.migrate("app", [ONE])
    assert await store.migrate("other", [Migration(1, "x", "CREATE TABLE x (id INTEGER)")]) == 1


async def test_many_at_once_apply_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    stores = [await open_store(url, name=str(i)) for i in range(4)]
    applied = await asyncio.gather(*(store.migrate("app", [ONE, TWO]) for store in stores))
    assert sorted(applied) == [0, 0, 0, 2]
    for store in stores:
        await store.close()


async def test_migrating_while_writing(store: Store) -> None:
    async def write(i: int) -> None:
        async def unit(tx: object) -> None:
            await tx.execute("INSERT INTO things (id) VALUES (?)", (i,))  # type: ignore[attr-defined]

        await store.write(unit)

    await asyncio.gather(store.migrate("app", [ONE, TWO]), *(write(i) for i in range(200)))
    assert await store.fetch_one("SELECT count(*) FROM things") == (200,)


async def test_a_failing_step_leaves_nothing(store: Store) -> None:
    bad = Migration(2, "bad", "CREATE TABLE half (id INTEGER); INSRT INTO half VALUES (1);")
    with pytest.raises(Internal, match="0002_bad"):
        await store.migrate("app", [ONE, bad])
    assert not {"one", "half"} & await tables(store)
    assert await store.migrate("app", [ONE]) == 1


@pytest.mark.parametrize(
    ("migrations", "kind", "code"),
    [
        ([Migration(1, "one", "CREATE TABLE changed (id INTEGER)")], Conflict, "migration_changed"),
        ([ONE, TWO, Migration(3, "three", "SELECT 1")], Conflict, "migration_out_of_order"),
        ([TWO, ONE], Invalid, "bad_migrations"),
        ([Migration(0, "zero", "SELECT 1")], Invalid, "bad_migrations"),
        ([ONE, Migration(9, "nine", "-- why\nCOMMIT")], Invalid, "bad_migrations"),
    ],
)
async def test_what_history_forbids(store: Store, migrations: list[Migration], kind: type[Error], code: str) -> None:
    await store.migrate("app", [ONE, Migration(3, "three", "SELECT 1")])
    before = await tables(store)
    with pytest.raises(kind) as refused:
        await store.migrate("app", migrations)
    assert refused.value.code == code
    assert await tables(store) == before


async def test_a_schema_ahead_of_the_program_is_no_error(store: Store) -> None:
    await store.migrate("app", [ONE, TWO])
    assert await store.migrate("app", [ONE]) == 0


async def test_a_list_may_begin_later_than_history(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Triggers of moves come and go: only the last steps are told. What was done before is not ahead of them."""
    await store.migrate("app", [ONE, TWO])
    three = Migration(3, "three", "CREATE TABLE three (id INTEGER)")
    assert await store.migrate("app", [TWO, three]) == 1
    assert await store.migrate("app", [three]) == 0
    assert "ahead" not in caplog.text
    assert await store.migrate("app", [TWO]) == 0
    with pytest.raises(Conflict):
        await store.migrate("app", [Migration(2, "other", "SELECT 1")])


async def test_a_table_may_be_rebuilt_under_references(store: Store) -> None:
    rebuild = """
    CREATE TABLE new_things (id INTEGER PRIMARY KEY, name TEXT, more TEXT);
    INSERT INTO new_things (id, name) SELECT id, name FROM things;
    DROP TABLE things;
    ALTER TABLE new_things RENAME TO things;
    """

    async def unit(tx: object) -> None:
        await tx.execute("INSERT INTO things (id) VALUES (1)")  # type: ignore[attr-defined]
        await tx.execute("INSERT INTO parts (id, thing) VALUES (1, 1)")  # type: ignore[attr-defined]

    await store.write(unit)
    assert await store.migrate("app", [Migration(1, "rebuild", rebuild)]) == 1
    assert await store.fetch_all("SELECT more FROM things") == [(None,)]


async def test_references_are_checked_in_the_end(store: Store) -> None:
    broken = Migration(1, "broken", "INSERT INTO parts (id, thing) VALUES (1, 404)")
    with pytest.raises(Conflict, match="'parts' would refer to a row of 'things'"):
        await store.migrate("app", [broken])
    assert await store.fetch_all("SELECT * FROM parts") == []


def test_scripts_are_split_at_real_ends() -> None:
    script = """
    -- a comment; with a semicolon
    CREATE TABLE a (b TEXT DEFAULT ';');
    CREATE TRIGGER t AFTER INSERT ON a BEGIN
        UPDATE a SET b = 1; DELETE FROM a;
    END;
    /* ; */ ; ;
    SELECT 'it''s; fine'
    """
    found = list(statements(script))
    assert [piece.split()[-1] for piece in found] == ["';');", "END;", "fine'"]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters=";'\"`[]-/*\0"), min_size=1), max_size=5))
def test_splitting_loses_nothing(pieces: list[str]) -> None:
    kept = [piece.strip() for piece in pieces if piece.strip()]
    assert [found.rstrip(";").strip() for found in statements(";".join(pieces))] == kept


def test_files_become_migrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "steps_of_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "0002_more.sql").write_text("SELECT 2", encoding="utf-8")
    (package / "0001_first_step.sql").write_text("SELECT 'ä'", encoding="utf-8")
    (package / "notes.txt").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    found = migrations_from("steps_of_a_test")
    assert found == [Migration(1, "first_step", "SELECT 'ä'"), Migration(2, "more", "SELECT 2")]
    (package / "0002_again.sql").write_text("")
    with pytest.raises(Invalid, match="0002 belongs to"):
        migrations_from("steps_of_a_test")
    (package / "0002_again.sql").unlink()
    (package / "3_typo.sql").write_text("")
    with pytest.raises(Invalid, match=r"3_typo\.sql"):
        migrations_from("steps_of_a_test")
    sys.modules.pop("steps_of_a_test")
