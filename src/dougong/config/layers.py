"""Laying values over each other while remembering who said what. Pure: knows no files and no environment.

A tree is plain data as TOML and JSON give it, plus two marks: `Text`, which only its type can interpret, and `Patch`,
entries of a list or dict whose other entries are those of the default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from enum import Enum, StrEnum

import msgspec

from dougong.config.shape import Kind, Shape, fields_of, shape_of

__all__ = ["MISSING", "Layer", "Layers", "Patch", "Path", "Source", "Text", "parse_path", "show_path"]

Path = tuple[str | int, ...]


class _Missing(Enum):
    MISSING = "missing"


MISSING = _Missing.MISSING
"""Nothing was said; None would be an answer."""

_UNKNOWN = Shape(Kind.LEAF, object, optional=False)


class Layer(StrEnum):
    """Where values come from; later ones win."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    OVERRIDE = "override"


_STRENGTH = list(Layer)


class Source(msgspec.Struct, frozen=True):
    """Who said so."""

    layer: Layer
    where: str = ""
    """The file's path or the variable's name; empty for defaults and overrides."""

    def __str__(self) -> str:
        match self.layer:
            case Layer.FILE:
                return f"file {self.where}"
            case Layer.ENVIRONMENT:
                return f"environment variable {self.where}"
            case _:
                return str(self.layer.value)

    def is_stronger_than(self, other: Source) -> bool:
        return _STRENGTH.index(self.layer) > _STRENGTH.index(other.layer)


class Text(msgspec.Struct, frozen=True):
    """What was given as text where the type is not text: `80` for a port."""

    text: str


class Patch(msgspec.Struct, frozen=True):
    """Single entries over the default's; keys are indexes or names."""

    entries: dict[str | int, object]


class Layers:
    """The merged tree and the source of everything in it."""

    def __init__(self, table: type[msgspec.Struct]) -> None:
        self._table = table
        self.tree: dict[str, object] = {}
        self.sources: dict[Path, Source] = {}

    def merge(self, values: Mapping[str, object], source: Source) -> None:
        """Lay a table of plain values over what is there."""
        self._merge_table(self.tree, self._table, values, (), source)

    def put(self, path: Path, value: object, source: Source) -> None:
        """Set one value, as many levels down as the path goes. Raises IndexError for an index that leaves a hole."""
        self._put(self.tree, shape_of(self._table), path, (), value, source)

    def source_of(self, path: Path) -> Source:
        """Of a value: who set it, or what it is part of. Of a table: the strongest source of anything in it."""
        for length in range(len(path), 0, -1):
            if (source := self.sources.get(path[:length])) is not None:
                return source
        strongest = Source(Layer.DEFAULT)
        for other, source in self.sources.items():
            if other[: len(path)] == path and source.is_stronger_than(strongest):
                strongest = source
        return strongest

    def _merge_table(
        self,
        into: dict[str, object],
        table: type[msgspec.Struct],
        values: Mapping[str, object],
        at: Path,
        source: Source,
    ) -> None:
        fields = fields_of(table)
        for name, value in values.items():
            # A name that is no field is kept: whoever builds the value refuses it, with all other faults.
            shape = shape_of(fields[name].annotation) if name in fields else _UNKNOWN
            into[name] = self._put(into.get(name, MISSING), shape, (), (*at, name), value, source)

    def _put(self, node: object, shape: Shape, rest: Path, at: Path, value: object, source: Source) -> object:
        """What `node`, found at `at`, becomes when `value` is put `rest` below it."""
        if not rest:
            if shape.table is not None and isinstance(value, Mapping):
                table = self._table_at(node, at)
                self._merge_table(table, shape.table, value, at, source)
                return table
            self._forget(at)
            self.sources[at] = source
            return deepcopy(value)
        part, *deeper = rest
        below, tail = (*at, part), tuple(deeper)
        if shape.table is not None:
            table = self._table_at(node, at)
            inner = shape_of(fields_of(shape.table)[str(part)].annotation)
            table[str(part)] = self._put(table.get(str(part), MISSING), inner, tail, below, value, source)
            return table
        inner = shape_of(shape.item)
        if isinstance(node, list) and isinstance(part, int):
            if part > len(node):
                raise IndexError(len(node))
            if part == len(node):
                node.append(MISSING)
            node[part] = self._put(node[part], inner, tail, below, value, source)
            return node
        if isinstance(node, dict) and shape.kind is Kind.DICT:
            node[part] = self._put(node.get(part, MISSING), inner, tail, below, value, source)
            return node
        if not isinstance(node, Patch):
            self._forget(at)  # missing, null, or of a wrong type: single entries go over the default's
            node = Patch({})
        node.entries[part] = self._put(node.entries.get(part, MISSING), inner, tail, below, value, source)
        return node

    def _table_at(self, node: object, at: Path) -> dict[str, object]:
        if isinstance(node, dict):
            return node
        self._forget(at)
        return {}

    def _forget(self, at: Path) -> None:
        """Whoever set this or anything in it no longer counts."""
        for path in [path for path in self.sources if path[: len(at)] == at]:
            del self.sources[path]


_PATH = re.compile(r"(?:^|\.)([^.\[\]]+)|\[(\d+)\]")


def parse_path(text: str) -> Path:
    """`servers[1].port` or `servers.1.port`, as people write it; digits are indexes."""
    parts: list[str | int] = []
    end = 0
    while end < len(text):
        match = _PATH.match(text, end)
        if match is None:
            raise ValueError(text)
        part = match[1] or match[2]
        parts.append(int(part) if part.isdecimal() and part.isascii() else part)
        end = match.end()
    return tuple(parts)


def show_path(path: Path) -> str:
    """`servers[1].port`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
