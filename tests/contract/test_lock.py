"""A field is its number: the lock keeps numbers over every change a class goes through."""

from __future__ import annotations

import importlib
import itertools
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contract.samples import Leaf, Orders

from dougong.contract import (
    LOCK_NAME,
    FieldLock,
    check_lock,
    codec,
    file_descriptors,
    lock_for,
    lock_path,
    proto_text,
    write_lock,
)
from dougong.contract._lock import renumber
from dougong.contract._shape import FieldShape, MessageShape, ValueShape
from dougong.errors import Invalid

_SERIAL = itertools.count()
Release = Callable[[str], ModuleType]

FIRST = """
    class Colour(StrEnum):
        RED = "red"
        BLUE = "blue"

    class Item(Message):
        name: str
        size: int
        colour: Colour
"""
SECOND = """
    class Colour(StrEnum):
        GREEN = "green"
        BLUE = "blue"

    class Item(Message):
        note: str = ""
        name: str
        colour: Colour
"""


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Release:
    """Packages that hold one release of a contract each, starting from the lock of the one before."""
    monkeypatch.syspath_prepend(str(tmp_path))
    locks: list[Path] = []

    def make(source: str) -> ModuleType:
        folder = tmp_path / f"release_{tmp_path.name.replace('-', '_')}_{next(_SERIAL)}"
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        head = "from enum import StrEnum\nfrom dougong.contract import Message, Service, rpc\n"
        tail = "class Things(Service, package='things.v1'):\n"
        tail += "    @rpc()\n    async def put(self, request: Item) -> Item:\n        raise NotImplementedError\n"
        (folder / "words.py").write_text(head + textwrap.dedent(source) + tail)
        if locks and locks[-1].is_file():
            (folder / LOCK_NAME).write_text(locks[-1].read_text())
        locks.append(folder / LOCK_NAME)
        importlib.invalidate_caches()
        return importlib.import_module(f"{folder.name}.words")

    return make


def lock_file(module: Any) -> Path:
    return Path(module.__file__).parent / LOCK_NAME


def test_numbers_stay_when_fields_come_and_go(release: Release) -> None:
    old: Any = release(FIRST)
    assert write_lock([old.Things], lock_file(old))
    new: Any = release(SECOND)
    assert lock_path(new.Item) == lock_file(new)
    data = codec(old.Item).encode(old.Item(name="cup", size=3, colour=old.Colour.BLUE))
    assert codec(new.Item).decode(data) == new.Item(name="cup", colour=new.Colour.BLUE)


def test_without_a_lock_the_same_change_misreads(release: Release) -> None:
    """The ablation: what the lock is for."""
    old: Any = release(FIRST)
    new: Any = release(SECOND)
    data = codec(old.Item).encode(old.Item(name="cup", size=3, colour=old.Colour.BLUE))
    assert codec(new.Item).decode(data).note == "cup"


def test_the_committed_text(release: Release) -> None:
    old: Any = release(FIRST)
    write_lock([old.Things], lock_file(old))
    new: Any = release(SECOND)
    assert write_lock([new.Things], lock_file(new))
    assert not write_lock([new.Things], lock_file(new))
    assert lock_file(new).read_text().partition("\n\n")[2] == textwrap.dedent("""\
        [messages.Item]
        name = { number = 1, type = "string" }
        colour = { number = 3, type = "Colour" }
        note = { number = 4, type = "string" }

        [enums.Colour]
        BLUE = 2
        GREEN = 3

        [deleted.Colour]
        RED = 1

        [deleted.Item]
        size = 2
    """)
    assert FieldLock.read(lock_file(new)).text() == lock_file(new).read_text()


def test_deleted_names_are_reserved_in_the_proto(release: Release) -> None:
    old: Any = release(FIRST)
    write_lock([old.Things], lock_file(old))
    new: Any = release(SECOND)
    write_lock([new.Things], lock_file(new))
    text = proto_text([new.Things])
    assert '  reserved 2;\n  reserved "size";\n' in text
    assert '  reserved 1;\n  reserved "COLOUR_RED";\n' in text
    (file,) = file_descriptors([new.Things])
    assert [(span.start, span.end) for span in file.message_type[0].reserved_range] == [(2, 3)]


def test_check_says_what_to_do(release: Release) -> None:
    old: Any = release(FIRST)
    path = lock_file(old)
    assert check_lock([old.Things], path) == [
        f"{path} does not exist; run `dougong contract generate` and commit the lock"
    ]
    write_lock([old.Things], path)
    assert check_lock([old.Things], path) == []
    new: Any = release(SECOND)
    assert sorted(check_lock([new.Things], lock_file(new))) == [
        f"{name} ({LOCK_NAME}) is {what}; run `dougong contract generate` and commit the lock"
        for name, what in (
            ("Colour.GREEN", "not locked yet"),
            ("Colour.RED", "gone but not reserved yet"),
            ("Item.note", "not locked yet"),
            ("Item.size", "gone but not reserved yet"),
        )
    ]


def test_a_message_the_lock_does_not_know(release: Release) -> None:
    old: Any = release(FIRST)
    write_lock([old.Things], lock_file(old))
    new: Any = release(
        "    class Empty(Message):\n        pass\n" + FIRST.replace("size: int", "size: int\n        e: Empty")
    )
    problems = check_lock([new.Things], lock_file(new))
    assert any(problem.startswith(f"Empty ({LOCK_NAME}) is not locked yet") for problem in problems)
    write_lock([new.Things], lock_file(new))
    assert check_lock([new.Things], lock_file(new)) == []


def test_a_changed_type_is_refused(release: Release) -> None:
    old: Any = release(FIRST)
    write_lock([old.Things], lock_file(old))
    new: Any = release(FIRST.replace("size: int", "size: str"))
    says = "Item.size changed from int64 to string, which old readers would misread; add a field with a new name"
    (problem,) = check_lock([new.Things], lock_file(new))
    assert problem.startswith(says)
    before = lock_file(new).read_text()
    with pytest.raises(TypeError, match=says):
        write_lock([new.Things], lock_file(new))
    assert lock_file(new).read_text() == before


def test_making_a_field_optional_is_no_change_of_type(release: Release) -> None:
    old: Any = release(FIRST)
    write_lock([old.Things], lock_file(old))
    new: Any = release(FIRST.replace("size: int", "size: int | None = None"))
    assert check_lock([new.Things], lock_file(new)) == []


def test_a_deleted_name_does_not_come_back(release: Release) -> None:
    for source in (FIRST, SECOND):
        module: Any = release(source)
        write_lock([module.Things], lock_file(module))
    again: Any = release(FIRST)
    says = "Item.size was deleted and its name and number 2 are reserved; take another name"
    assert says in check_lock([again.Things], lock_file(again))
    with pytest.raises(TypeError, match=says):
        write_lock([again.Things], lock_file(again))
    with pytest.raises(TypeError, match=r"size was deleted from this contract.*take another name"):
        codec(again.Item)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[messages", "is no field lock"),
        ("[messages.A]\nx = 1\n", "Expected `object`"),
        ("[surprise.A]\nx = 1\n", "unknown field `surprise`"),
        ('[messages.A]\nx = { number = 1, type = "string" }\ny = { number = 1, type = "bool" }\n', "number twice"),
        ('[messages.A]\nx = { number = 0, type = "string" }\n', "below 1"),
        ('[messages.A]\nx = { number = 1, type = "string" }\n[deleted.A]\ny = 1\n', "number twice"),
    ],
)
def test_a_damaged_lock_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / LOCK_NAME
    path.write_text(text)
    with pytest.raises(Invalid, match=says) as caught:
        FieldLock.read(path)
    assert caught.value.code == "lock_unreadable"
    assert str(path) in caught.value.message
    assert check_lock([Orders], path) == [caught.value.message]


def test_types_of_other_packages_have_their_own_lock(tmp_path: Path) -> None:
    write_lock([Orders], tmp_path / LOCK_NAME)
    assert FieldLock.read(tmp_path / LOCK_NAME) == FieldLock()
    assert set(lock_for([Orders]).messages) >= {"PlaceOrder", "Line", "Order", "Everything"}


NAMES = st.lists(st.sampled_from("abcdefgh"), unique=True)


@given(st.lists(NAMES, max_size=8))
def test_no_history_gives_a_number_two_meanings(history: list[list[str]]) -> None:
    """Whatever is added, deleted, reordered: a number once given to a name is never given to another."""
    lock, meaning = FieldLock(), dict[int, str]()
    for names in history:
        gone = lock.deleted.get("Leaf", {})
        fields = [_field(name) for name in names if name not in gone]
        result = renumber(lock, [MessageShape(Leaf, tuple(fields), "")], [])
        assert result.problems == ()
        lock = FieldLock.parse(result.lock.text())
        assert lock == result.lock
        numbers = lock.numbers("Leaf")
        assert set(numbers) == {field.name for field in fields}
        for name, number in numbers.items():
            assert meaning.setdefault(number, name) == name


def _field(name: str) -> FieldShape:
    return FieldShape(name, name, "one", ValueShape("string", str, {}), {}, {}, "", False, "")


def test_the_nearest_lock_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One lock for a whole system, and one of its own for a package that moves at its own pace."""
    monkeypatch.syspath_prepend(str(tmp_path))
    root = tmp_path / f"system_{tmp_path.name.replace('-', '_')}"
    words = "from dougong.contract import Message, Service, rpc\nclass {0}(Message):\n    text: str\n"
    service = "class {0}s(Service):\n    @rpc()\n    async def put(self, request: {0}) -> {0}:\n        ...\n"
    for name in ("near", "far"):
        (root / name).mkdir(parents=True)
        (root / name / "__init__.py").write_text((words + service).format(name.capitalize()))
    near: Any = importlib.import_module(f"{root.name}.near")
    far: Any = importlib.import_module(f"{root.name}.far")
    assert write_lock([near.Nears], root / "near" / LOCK_NAME)
    assert write_lock([near.Nears, far.Fars], root / LOCK_NAME)
    assert (lock_path(near.Near), lock_path(far.Far)) == (root / "near" / LOCK_NAME, root / LOCK_NAME)
    assert set(FieldLock.read(root / LOCK_NAME).messages) == {"Far"}
    assert check_lock([near.Nears, far.Fars], root / LOCK_NAME) == []
    assert check_lock([near.Nears, far.Fars], root / "near" / LOCK_NAME) == []
