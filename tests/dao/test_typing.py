"""Types flow from entity and key to every call: mypy and pyright accept the uses and refuse the misuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from mypy import api

SOURCES = Path(__file__).parents[2] / "src"

PROGRAM = """
from datetime import datetime

from dougong.dao import DAO, Entity, Page, column
from dougong.shard import ShardedStore
from dougong.store import Store, Tx

class User(Entity, table="users"):
    id: int
    email: str
    joined: datetime
    age: int | None = None

class Tag(Entity, table="tags", key="name"):
    name: str

async def use(store: Store, now: datetime, tx: Tx) -> None:
    direct: User | None = await DAO(User, store).get(7)
    users = DAO(User, store)
    tags: DAO[Tag, str] = DAO(Tag, store)
    one: User | None = await users.get(1)
    sure: User = await users.need(1, tx=tx)
    tag: Tag | None = await tags.get("x")
    many: dict[int, User] = await users.get_many([1, 2])
    page: Page[User] = await users.find(
        column(User.email).starts_with("a"), column(User.age).at_least(18), order=[column(User.joined).descending]
    )
    changed: User = await users.update(page.items[0])
    await users.create(User(1, "a", now))
    async for user in users.stream(column(User.joined).below(now), column(User.age).is_null()):
        user.email.upper()
    total: int = await users.count(column(User.id).one_of(range(9)))

async def use_many(store: ShardedStore) -> None:
    users = DAO(User, store)
    one: User | None = await users.get(1)
    page: Page[User] = await users.find(scatter=True)

async def misuse(store: Store, now: datetime) -> None:
    users = DAO(User, store)
    DAO(User, "users")  # WRONG arg-type reportArgumentType
    await users.get("1")  # WRONG arg-type reportArgumentType
    await users.create(Tag("x"))  # WRONG arg-type reportArgumentType
    await users.create_many([Tag("x")])  # WRONG list-item reportArgumentType
    await users.update(Tag("x"))  # WRONG arg-type reportArgumentType
    await users.delete(None)  # WRONG arg-type reportArgumentType
    await users.get_many(["1"])  # WRONG list-item reportArgumentType
    user = await users.get(1)
    user.email  # WRONG union-attr reportOptionalMemberAccess
    (await users.need(1)).nmae  # WRONG attr-defined reportAttributeAccessIssue
    (await users.need(1)).email = "b"  # WRONG misc reportAttributeAccessIssue
    page = await users.find()
    page.items[0].nmae  # WRONG attr-defined reportAttributeAccessIssue
    tags: DAO[Tag, str] = DAO(User, store)  # WRONG arg-type reportAssignmentType
    other: DAO[int, int]  # WRONG type-var reportInvalidTypeArguments
    User("1", "a", now)  # WRONG arg-type reportArgumentType
    column(User.nmae)  # WRONG attr-defined reportAttributeAccessIssue
    column(User.email).equals(5)  # WRONG arg-type reportArgumentType
    column(User.email).equals(None)  # WRONG arg-type reportArgumentType
    column(User.joined).at_least("today")  # WRONG arg-type reportArgumentType
    column(User.age).above("x")  # WRONG arg-type reportArgumentType
    column(User.age).starts_with("1")  # WRONG misc reportAttributeAccessIssue
    column(User.id).one_of(["1"])  # WRONG list-item reportArgumentType
    await users.find({"email": "a"})  # WRONG arg-type reportArgumentType
    await users.find(User.email == "a")  # WRONG arg-type reportArgumentType
    await users.find(order=["email"])  # WRONG list-item reportArgumentType
    await users.find(limit="9")  # WRONG arg-type reportArgumentType
"""


def expected(column: int) -> set[tuple[int, str]]:
    return {
        (number, line.split("# WRONG ")[1].split()[column])
        for number, line in enumerate(PROGRAM.splitlines(), 1)
        if "# WRONG " in line
    }


def test_mypy_accepts_uses_and_refuses_misuses(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    config = tmp_path / "mypy.ini"
    config.write_text(f"[mypy]\nmypy_path = {SOURCES}\nfollow_imports = silent\n")
    output, trouble, _ = api.run(
        ["--strict", "--config-file", str(config), "--cache-dir", str(tmp_path / "cache"), str(program)]
    )
    assert not trouble
    found = {(int(line), code) for line, code in re.findall(r"program\.py:(\d+): error: .*\[([a-z-]+)\]", output)}
    assert found == expected(0), output


def test_so_does_pyright(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    settings = {"extraPaths": [str(SOURCES)], "pythonVersion": "3.11", "reportUnusedExpression": False}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    diagnostics = json.loads(done.stdout)["generalDiagnostics"]
    found = {(each["range"]["start"]["line"] + 1, each["rule"]) for each in diagnostics if each["severity"] == "error"}
    assert found == expected(1), done.stdout
