"""The environment as a layer: names become paths, text becomes values, both by what the settings class says."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path as FilePath

import msgspec

from dougong.config.layers import Path, Text
from dougong.config.problems import Problem
from dougong.config.shape import Kind, Shape, fields_of, shape_of

__all__ = ["Found", "interpret", "read_environment", "suggest", "variable"]

_FILE = "_FILE"
_FILE_BYTES_MAX = 1 << 20


class Found(msgspec.Struct, frozen=True):
    """A variable that sets something."""

    name: str
    path: Path
    value: object


def variable(prefix: str, path: Path) -> str:
    """The variable that sets `path`."""
    return prefix + "__".join(_as_variable(str(part)) for part in path)


def read_environment(
    table: type[msgspec.Struct],
    environ: Mapping[str, str],
    prefix: str,
    tree: dict[str, object],
    problems: list[Problem],
) -> list[Found]:
    """What the environment sets, outer values before what is inside them. `tree` knows the names of dict entries."""
    found: dict[Path, Found] = {}
    for name in sorted(environ):
        if not name.startswith(prefix):
            continue
        parts = name.removeprefix(prefix).split("__")
        text: str | None = environ[name]
        located = _locate(table, parts, tree)
        if located is None and name.endswith(_FILE):
            located = _locate(table, [*parts[:-1], parts[-1].removesuffix(_FILE)], tree)
            if located is not None:
                text = _content(name, environ[name], problems)
        if located is None:
            problems.append(_unknown(table, name, prefix))
        elif text is not None:
            path, shape = located
            if (other := found.get(path)) is not None:
                problems.append(
                    Problem(path, "ambiguous_setting", f"set by both {other.name} and {name}; unset one of them", name)
                )
                continue
            found[path] = Found(name, path, interpret(text, shape, path, f"environment variable {name}", problems))
    # As tuples, outer paths come before inner ones and indexes in number order, so that lists grow without holes.
    return [found[path] for path in sorted(found, key=_order)]


def interpret(text: str, shape: Shape, path: Path, where: str, problems: list[Problem]) -> object:
    """Text as a value: JSON for what has parts, `null` for None where allowed, else left to the type."""
    if text == "null" and shape.optional:
        return None
    if shape.kind in (Kind.LEAF, Kind.SECRET):
        return Text(text)
    if not text.strip() and shape.kind is not Kind.TABLE:
        return [] if shape.kind is Kind.LIST else {}
    try:
        value: object = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        problems.append(Problem(path, "bad_setting", f"expected {shape.expected} as JSON ({error})", where))
        return Text(text)
    return value


def suggest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else ""


def _locate(table: type[msgspec.Struct], parts: list[str], tree: Mapping[str, object]) -> tuple[Path, Shape] | None:
    shape = Shape(Kind.TABLE, table, optional=False, table=table)
    node: object = tree
    path: list[str | int] = []
    for part in parts:
        if shape.table is not None:
            field = next((field for name, field in fields_of(shape.table).items() if name.upper() == part), None)
            if field is None:
                return None
            path.append(field.name)
            shape = shape_of(field.annotation)
        elif shape.kind is Kind.LIST and part.isdecimal() and part.isascii():
            path.append(int(part))
            shape = shape_of(shape.item)
        elif shape.kind is Kind.DICT and part:
            names = [str(name) for name in node] if isinstance(node, Mapping) else []
            path.append(next((name for name in names if _as_variable(name) == part), part.lower()))
            shape = shape_of(shape.item)
        else:
            return None
        node = _below(node, path[-1])
    return tuple(path), shape


def _below(node: object, part: str | int) -> object:
    if isinstance(node, Mapping):
        return node.get(part)
    if isinstance(node, list) and isinstance(part, int) and part < len(node):
        return node[part]
    return None


def _as_variable(name: str) -> str:
    """Variables have neither lower case nor dashes nor dots."""
    return "".join(letter if letter.isalnum() else "_" for letter in name.upper())


def _content(name: str, file: str, problems: list[Problem]) -> str | None:
    """What the file named by a variable holds, without the line end that editors and `echo` add."""
    reason = ""
    try:
        with FilePath(file).open("rb") as stream:
            data = stream.read(_FILE_BYTES_MAX + 1)
        if len(data) <= _FILE_BYTES_MAX:
            return data.decode().removesuffix("\n").removesuffix("\r")
        reason = f"is larger than {_FILE_BYTES_MAX} bytes"
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except ValueError:
        reason = "is not UTF-8 text, or its name is no file name"
    problems.append(Problem((), "bad_config_file", f"{name} names the file {file!r}, which {reason}", name))
    return None


def _unknown(table: type[msgspec.Struct], name: str, prefix: str) -> Problem:
    known = [variable(prefix, (field,)) for field in fields_of(table)]
    top = prefix + name.removeprefix(prefix).split("__")[0]
    hint = suggest(top, known) if top not in known else f"; {top} has no such entry"
    return Problem((), "unknown_setting", f"{name} sets nothing{hint}", name)


def _order(path: Path) -> list[tuple[int, int, str]]:
    return [(0, part, "") if isinstance(part, int) else (1, 0, part) for part in path]
