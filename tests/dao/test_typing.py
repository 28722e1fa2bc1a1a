"""Types flow from entity and key to every call: mypy accepts the uses and refuses the misuses."""

from __future__ import annotations

import re
from pathlib import Path

from mypy import api

PROGRAM = """
from dougong.dao import DAO, Entity, Page
from dougong.store import Store

class User(Entity, table="users"):
    id: int
    email: str

class Tag(Entity, table="tags", key="name"):
    name: str

async def use(store: Store) -> None:
    users: DAO[User, int] = DAO(User, store)
    one: User | None = await users.get(1)
    sure: User = await users.need(1)
    many: dict[int, User] = await users.get_many([1, 2])
    page: Page[User] = await users.find({"email": "a"}, order=["-id"])
    changed: User = await users.update(page.items[0])
    await users.create(User(1, "a"))
    async for user in users.stream():
        user.email.upper()

async def misuse(store: Store) -> None:
    users: DAO[User, int] = DAO(User, store)
    await users.get("1")  # WRONG arg-type
    await users.create(Tag("x"))  # WRONG arg-type
    await users.create_many([Tag("x")])  # WRONG list-item
    await users.update(Tag("x"))  # WRONG arg-type
    await users.delete(None)  # WRONG arg-type
    await users.get_many(["1"])  # WRONG list-item
    user = await users.get(1)
    user.email  # WRONG union-attr
    (await users.need(1)).nmae  # WRONG attr-defined
    (await users.need(1)).email = "b"  # WRONG misc
    page = await users.find()
    page.items[0].nmae  # WRONG attr-defined
    tags: DAO[Tag, str] = DAO(User, store)  # WRONG arg-type
    other: DAO[int, int]  # WRONG type-var
    User("1", "a")  # WRONG arg-type
    untyped = DAO(User, store)  # WRONG var-annotated
"""


def test_mypy_accepts_uses_and_refuses_misuses(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    config = tmp_path / "mypy.ini"
    config.write_text(f"[mypy]\nmypy_path = {Path(__file__).parents[2] / 'src'}\nfollow_imports = silent\n")
    output, trouble, _ = api.run(
        ["--strict", "--config-file", str(config), "--cache-dir", str(tmp_path / "cache"), str(program)]
    )
    assert not trouble
    found = {(int(line), code) for line, code in re.findall(r"program\.py:(\d+): error: .*\[([a-z-]+)\]", output)}
    expected = {
        (number, match[1])
        for number, line in enumerate(PROGRAM.splitlines(), 1)
        if (match := re.search(r"# WRONG ([a-z-]+)", line))
    }
    assert found == expected, output
