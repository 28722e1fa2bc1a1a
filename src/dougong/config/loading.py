"""`load`: defaults < files < environment < overrides."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Generic, TypeVar

import msgspec

from dougong.config.build import Builder
from dougong.config.environment import interpret, read_environment
from dougong.config.layers import Layer, Layers, Path, Source, parse_path, show_path
from dougong.config.problems import Problem, refuse
from dougong.config.shape import Kind, Shape, fields_of, shape_of
from dougong.errors import NotFound

__all__ = ["Loaded", "load"]

T = TypeVar("T", bound=msgspec.Struct)


class Loaded(Generic[T]):
    """A settings object and where each of its values came from."""

    __slots__ = ("_layers", "value")

    def __init__(self, value: T, layers: Layers) -> None:
        self.value = value
        self._layers = layers

    def why(self, path: str) -> Source:
        """Who set `server.port` or `peers[0]`. Of a table: the strongest source of anything in it.

        Raises `NotFound` (code `unknown_setting`) for what is not there.
        """
        try:
            parts = parse_path(path)
            node: object = self.value
            for part in parts:
                node = _child(node, part)
        except (KeyError, IndexError, ValueError) as error:
            raise NotFound(
                f"there is no setting {path!r} in {type(self.value).__name__}; paths look like server.port or peers[0]",
                code="unknown_setting",
                path=path,
            ) from error
        return self._layers.source_of(parts)

    def sources(self) -> dict[str, Source]:
        """Every single value's path and source, in the order of the fields."""
        return {show_path(path): self._layers.source_of(path) for path in _leaves(self.value, ())}


def load(
    table: type[T],
    *,
    files: Sequence[FilePath | str] = (),
    tables: Sequence[tuple[str, Mapping[str, object]]] = (),
    environ: Mapping[str, str] | None = None,
    prefix: str = "DOUGONG_",
    overrides: Mapping[str, object] | None = None,
    ignore: Sequence[str] = (),
) -> Loaded[T]:
    """Settings of class `table` from all layers.

    `files` are TOML, later ones win, all must exist; `tables` are parts of files already read, with the files' names,
    and come after them. `environ` is the process's environment unless given; variables that start with `prefix` must
    each set something, except those that `ignore` names (or covers: an entry that ends in `_` stands for all that start
    so). `overrides` maps paths (`server.port`) to values; text is read as the environment's is, so flags can be passed
    on as they came.

    Raises `Invalid` naming every fault found: its setting, what was expected, and the file or variable that set it.
    Codes: `unknown_setting`, `missing_setting`, `bad_setting`, `ambiguous_setting`, `bad_config_file`.
    """
    layers = Layers(table)
    problems: list[Problem] = []
    for file in files:
        values = _read_toml(FilePath(file), problems)
        layers.merge(values, Source(Layer.FILE, str(file)))
    for where, part in tables:
        layers.merge(part, Source(Layer.FILE, where))
    others = tuple(name for name in ignore if name.endswith("_"))
    variables = {
        name: text
        for name, text in (os.environ if environ is None else environ).items()
        if name not in ignore and not name.startswith(others)
    }
    for found in read_environment(table, variables, prefix, layers.tree, problems):
        _put(layers, found.path, found.value, Source(Layer.ENVIRONMENT, found.name), problems)
    for name, value in (overrides or {}).items():
        source = Source(Layer.OVERRIDE)
        try:
            path = parse_path(name)
            shape = _shape_at(table, path)
        except (KeyError, ValueError):
            problems.append(Problem((), "unknown_setting", f"{name}: there is no such setting, set by {source}", ""))
            continue
        read = interpret(value, shape, path, str(source), problems) if isinstance(value, str) else value
        _put(layers, path, read, source, problems)
    made = Builder(layers, prefix, problems).build(table)
    if problems:
        raise refuse(problems)
    assert isinstance(made, table)
    return Loaded(made, layers)


def _put(layers: Layers, path: Path, value: object, source: Source, problems: list[Problem]) -> None:
    try:
        layers.put(path, value, source)
    except IndexError as error:
        there = error.args[0]
        problems.append(
            Problem(path, "bad_setting", f"the list has {there} entries; the next is [{there}]", str(source))
        )


def _read_toml(file: FilePath, problems: list[Problem]) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_bytes().decode())
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 text (byte {error.start})"
    except tomllib.TOMLDecodeError as error:
        reason = f"is not TOML: {error}"
    except RecursionError:
        reason = "is nested too deeply"
    problems.append(Problem((), "bad_config_file", f"the file {file} {reason}", f"file {file}"))
    return {}


def _shape_at(table: type[msgspec.Struct], path: Path) -> Shape:
    if not path:
        raise KeyError(path)
    shape = shape_of(table)
    for part in path:
        if shape.table is not None:
            shape = shape_of(fields_of(shape.table)[str(part)].annotation)
        elif (shape.kind is Kind.LIST and isinstance(part, int)) or shape.kind is Kind.DICT:
            shape = shape_of(shape.item)
        else:
            raise KeyError(part)
    return shape


def _child(node: object, part: str | int) -> object:
    if isinstance(node, msgspec.Struct):
        value: object = getattr(node, fields_of(type(node))[str(part)].attribute)
        return value
    if isinstance(node, list | tuple) and isinstance(part, int):
        return node[part]
    if isinstance(node, Mapping):
        return node[part] if part in node else node[str(part)]
    raise KeyError(part)


def _leaves(node: object, at: Path) -> Iterator[Path]:
    """Lists and dicts without entries are values themselves."""
    below: list[tuple[str | int, object]] = []
    if isinstance(node, msgspec.Struct):
        below = [(name, getattr(node, field.attribute)) for name, field in fields_of(type(node)).items()]
    elif isinstance(node, list | tuple):
        below = list(enumerate(node))
    elif isinstance(node, Mapping):
        below = [(str(name), value) for name, value in node.items()]
    if not below:
        yield at
    for part, value in below:
        yield from _leaves(value, (*at, part))
