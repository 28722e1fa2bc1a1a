"""From the merged tree to the settings object: every value checked against its type, every fault with its place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Annotated, Any

import msgspec

from dougong.config.environment import suggest, variable
from dougong.config.layers import MISSING, Layers, Patch, Path, Text
from dougong.config.problems import Problem
from dougong.config.secret import Secret
from dougong.config.shape import Kind, Shape, fields_of, shape_of

__all__ = ["Builder"]

_FAULT: object = object()
_NODEFAULT = msgspec.NODEFAULT
_INNER_PATH = re.compile(r" - at `\$(.*)`$")


class Builder:
    """Builds one settings object; `problems` is empty when it may be used."""

    def __init__(self, layers: Layers, prefix: str, problems: list[Problem]) -> None:
        self._layers = layers
        self._prefix = prefix
        self._problems = problems

    def build(self, table: type[msgspec.Struct]) -> object:
        return self._table(table, self._layers.tree, (), _NODEFAULT)

    def _value(self, shape: Shape, node: object, at: Path, default: object) -> object:
        if node is MISSING:
            if default is not _NODEFAULT:
                return default
            if shape.table is not None:
                return self._table(shape.table, {}, at, _NODEFAULT)  # all in it may have defaults; if not, it says what
            return self._missing(shape, at)
        if node is None:
            return None if shape.optional else self._refuse(at, shape.expected, "null")
        match shape.kind:
            case Kind.TABLE:
                assert shape.table is not None
                if isinstance(node, dict):
                    return self._table(shape.table, node, at, default)
                return node if isinstance(node, shape.table) else self._refuse(at, shape.expected, _kind_of(node))
            case Kind.LIST:
                return self._list(shape, node, at, default)
            case Kind.DICT:
                return self._dict(shape, node, at, default)
            case Kind.SECRET:
                text = node.text if isinstance(node, Text) else node
                if isinstance(text, Secret):
                    return text
                return Secret(text) if isinstance(text, str) else self._refuse(at, shape.expected, _kind_of(node))
            case Kind.LEAF:
                return self._leaf(shape, node, at)

    def _table(self, table: type[msgspec.Struct], node: dict[str, object], at: Path, default: object) -> object:
        fields = fields_of(table)
        for name in node:
            if name not in fields:
                self._add((*at, name), "unknown_setting", f"there is no such setting{suggest(name, list(fields))}")
        base = default if type(default) is table else None
        values: dict[str, object] = {}
        for field in fields.values():
            inherited = getattr(base, field.attribute) if base is not None else field.make_default()
            shape = shape_of(field.annotation)
            values[field.attribute] = self._value(shape, node.get(field.name, MISSING), (*at, field.name), inherited)
        if any(value is _FAULT for value in values.values()):
            return _FAULT
        try:
            made: object = table(**values)
        except (TypeError, ValueError) as error:  # the class's own __post_init__
            self._add(at, "bad_setting", str(error))
            return _FAULT
        return made

    def _list(self, shape: Shape, node: object, at: Path, default: object) -> object:
        item = shape_of(shape.item)
        if isinstance(node, Patch):
            made = list(default) if isinstance(default, list | tuple) else []
            for index, entry in node.entries.items():
                assert isinstance(index, int)
                if index > len(made):
                    self._add(
                        (*at, index), "bad_setting", f"the list has {len(made)} entries; the next is [{len(made)}]"
                    )
                    return _FAULT
                value = self._value(item, entry, (*at, index), made[index] if index < len(made) else _NODEFAULT)
                made[index : index + 1] = [value]
        elif isinstance(node, list | tuple | set | frozenset):
            made = [self._value(item, entry, (*at, index), _NODEFAULT) for index, entry in enumerate(node)]
        else:
            return self._refuse(at, shape.expected, _kind_of(node))
        if any(value is _FAULT for value in made) or not self._within(shape, made, list, at):
            return _FAULT
        try:
            finished: object = shape.make(made)
        except TypeError:
            return self._refuse(at, "a list of hashable values", "others")
        return finished

    def _dict(self, shape: Shape, node: object, at: Path, default: object) -> object:
        item = shape_of(shape.item)
        made: dict[object, object] = {}
        if isinstance(node, Patch):
            made = dict(default) if isinstance(default, Mapping) else {}
            entries: Mapping[Any, object] = node.entries
        elif isinstance(node, Mapping):
            entries = node
        else:
            return self._refuse(at, shape.expected, _kind_of(node))
        for name, entry in entries.items():
            if not isinstance(name, str):
                return self._refuse(at, "names that are text", _kind_of(name))
            made[name] = self._value(item, entry, (*at, name), made.get(name, _NODEFAULT))
        if any(value is _FAULT for value in made.values()) or not self._within(shape, made, dict, at):
            return _FAULT
        return made

    def _within(self, shape: Shape, made: list[object] | dict[object, object], kind: type, at: Path) -> bool:
        """Bounds on the number of entries."""
        for bound in shape.bounds:
            try:
                msgspec.convert(made, Annotated[kind, bound], dec_hook=_accept)
            except msgspec.ValidationError as error:
                self._add(at, "bad_setting", _told(error))
                return False
        return True

    def _leaf(self, shape: Shape, node: object, at: Path) -> object:
        value, strict = (node.text, False) if isinstance(node, Text) else (node, True)
        try:
            return msgspec.convert(value, shape.annotation, strict=strict, dec_hook=_decode)
        except msgspec.ValidationError as error:
            self._add(at, "bad_setting", f"expected {shape.expected}: {_told(error)}", shape.expected)
        except (TypeError, ValueError) as error:
            self._add(at, "bad_setting", f"expected {shape.expected}: {error}", shape.expected)
        return _FAULT

    def _missing(self, shape: Shape, at: Path) -> object:
        name = variable(self._prefix, at)
        text = f"is required (expected {shape.expected}) and was not set; set it in a file or by {name}"
        self._problems.append(Problem(at, "missing_setting", text, "", shape.expected))
        return _FAULT

    def _refuse(self, at: Path, expected: str, got: str) -> object:
        self._add(at, "bad_setting", f"expected {expected}, got {got}", expected)
        return _FAULT

    def _add(self, at: Path, code: str, text: str, expected: str = "") -> None:
        if any(problem.path == at and at for problem in self._problems):
            return  # said already, where it was read
        source = self._layers.source_of(at)
        self._problems.append(Problem(at, code, text, str(source), expected))


def _kind_of(node: object) -> str:
    """The kind only: the value might be a secret in the wrong place."""
    if node is None:
        return "null"
    if isinstance(node, Text | str):
        return "text"
    if isinstance(node, Mapping):
        return "a table"
    if isinstance(node, list | tuple):
        return "a list"
    return type(node).__name__


def _told(error: msgspec.ValidationError) -> str:
    text = str(error)
    match = _INNER_PATH.search(text)
    return text if match is None else f"{text[: match.start()]} at {match[1] or 'its top'}"


def _decode(kind: type, value: object) -> object:
    if kind is FilePath and isinstance(value, str):
        return FilePath(value)
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    if isinstance(value, kind):
        return value
    raise NotImplementedError(f"settings of type {kind.__name__} are not supported")


def _accept(_kind: type, value: object) -> object:
    return value
