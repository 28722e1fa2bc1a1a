"""A room is entered by its front door: what its `__init__` exports.

import-linter holds the floors and has no rule for doors: a `forbidden` contract would have to name every pair of rooms.
"""

from __future__ import annotations

from collections.abc import Iterable

import grimp

ROOT_PARTS = 2  # dougong.store, shop.orders
# A story takes safeguards away to see the damage, so it reaches for the parts that are them.
STORIES = ("dougong.simulation.stories", "shop.proof.payment")


def through_the_wall(imports: Iterable[tuple[str, str]]) -> list[str]:
    """Imports of a module inside a room from outside that room."""
    found: list[str] = []
    for importer, imported in imports:
        room = ".".join(imported.split(".")[:ROOT_PARTS])
        inside = imported != room and not importer.startswith(STORIES)
        if inside and importer != room and not importer.startswith(room + "."):
            found.append(f"{importer} imports {imported}: take it from {room}, or export it there")
    return sorted(found)


def test_rooms_are_entered_by_their_front_door() -> None:
    graph = grimp.build_graph("dougong", "shop", cache_dir=None)
    pairs = (
        (importer, imported)
        for importer in graph.modules
        for imported in graph.find_modules_directly_imported_by(importer)
    )
    assert through_the_wall(pairs) == []


def test_the_rule_can_fail() -> None:
    allowed = [("dougong.tcc.fence", "dougong.store"), ("dougong.store.sqlite", "dougong.store._protocol")]
    assert through_the_wall(allowed) == []
    assert through_the_wall([("dougong.tcc.fence", "dougong.store._protocol")]) == [
        "dougong.tcc.fence imports dougong.store._protocol: take it from dougong.store, or export it there"
    ]
