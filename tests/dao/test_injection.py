"""What people type never becomes SQL: hostile text through every text field, key, filter and cursor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.dao import DAO, Entity, column, create_tables
from dougong.dao._page import encode_cursor
from dougong.store import Store, open_store


class Note(Entity, table="notes", unique={"notes_title": ["title"]}):
    id: str
    title: str
    body: str | None
    tags: list[str]


HOSTILE = [
    "'; DROP TABLE notes; --",
    '"; DROP TABLE notes; --',
    "`; DROP TABLE notes; --",
    "\\'; DELETE FROM notes; #",
    "\\",
    "x' OR '1'='1",
    "x') OR 1=1 --",
    "%s %(a)s %% $1 :a ? ?? {} {0}",
    "/* */ -- # ;",
    "$$; DROP TABLE notes; $$",
    "\u02bc; DROP TABLE notes; --",
    "\x1a\b\t\r\n",
    "_%",
    "NULL",
    "1 UNION SELECT 1,2,3,4",
]
_hostile = st.lists(
    st.sampled_from([*HOSTILE, "'", '"', "`", "\\", ";", "--", "%", "?", "$1", ")", " "]), max_size=4
).map(lambda pieces: "".join(pieces)[:255])


@pytest.fixture
async def notes(fresh_url: Callable[[], str]) -> AsyncIterator[DAO[Note, str]]:
    store = await open_store(fresh_url())
    await store.migrate("test", [create_tables(1, "notes", Note)])
    yield DAO(Note, store)
    await store.close()


async def _everything_about(notes: DAO[Note, str], text: str) -> None:
    """Store, change, find and delete one row whose every field is `text`, beside one that must not be touched."""
    note = Note(text, text, text, [text])
    await notes.create(note)
    assert await notes.get(text) == note
    assert await notes.get_many([text, "none"]) == {text: note}
    title, body, key, tags = column(Note.title), column(Note.body), column(Note.id), column(Note.tags)
    for condition in (
        title.equals(text),
        body.equals(text),
        key.one_of([text]),
        tags.equals([text]),
        title.one_of([text, text, "x"]),
    ):
        assert (await notes.find(condition, title.differs_from("kept"))).items == [note]
    for condition in (title.starts_with(text), title.at_least(text), title.at_most(text)):
        assert note in (await notes.find(condition)).items
    assert note not in (await notes.find(title.above(text))).items + (await notes.find(title.below(text))).items
    cursor = encode_cursor(["notes", "title", "id"], [text, text])
    assert note not in (await notes.find(order=[title.ascending], after=cursor)).items
    changed = msgspec.structs.replace(note, body=text + "'")
    assert await notes.update(changed) == changed
    await notes.upsert(note)
    assert await notes.count(body.equals(text)) == 1
    assert await notes.delete(text)
    assert (await notes.find()).items == [KEPT]


KEPT = Note("kept", "kept", "kept", ["kept"])


async def test_hostile_text_is_only_text(notes: DAO[Note, str]) -> None:
    await notes.create(KEPT)
    for text in HOSTILE:
        await _everything_about(notes, text)


async def test_so_is_whatever_else_is_made_of_it(notes: DAO[Note, str]) -> None:
    await notes.create(KEPT)
    loop = asyncio.get_running_loop()

    @given(_hostile)
    def check(text: str) -> None:
        asyncio.run_coroutine_threadsafe(_everything_about(notes, text), loop).result(30)

    await asyncio.to_thread(check)


class Reserved(Entity, table="order", key="select", version="limit", unique={"where": ["group", "table"]}):
    """Every name is a reserved word of SQL."""

    select: int
    group: str
    table: str
    limit: int = 1


async def test_reserved_words_are_quoted(fresh_url: Callable[[], str]) -> None:
    store: Store = await open_store(fresh_url())
    await store.migrate("test", [create_tables(1, "reserved", Reserved)])
    dao = DAO(Reserved, store)
    one = Reserved(1, "a", "b")
    assert await dao.create_many([one, Reserved(2, "b", "b")]) == 2
    assert (
        await dao.find(column(Reserved.group).at_least("a"), order=[column(Reserved.table).ascending], limit=1)
    ).items == [one]
    two = await dao.update(one)
    await dao.upsert(two)
    assert await dao.need(1) == Reserved(1, "a", "b", 3)
    await store.close()
