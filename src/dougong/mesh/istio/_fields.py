"""A table of the file, read field by field: what nobody asked for is a fault when it is closed.

    with Table(node, "spec", findings) as spec:
        host = spec.text("host", required=True)
        spec.unsupported("exportTo", "every client sees it")

An empty field (`interval:`) is unset, with a warning, as somebody meant to write something there.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from types import TracebackType
from typing import Self

from dougong.mesh.istio._durations import duration_ns
from dougong.mesh.istio._problems import Findings, Place, did_you_mean
from dougong.mesh.istio._yaml import Kind, Node

__all__ = ["Table"]

_INT32_MAX = 2**31 - 1
_MS_NS = 1_000_000
_FOREVER_NS = 100 * 365 * 24 * 3600 * 10**9


class Table:
    """One table of the file. `places` says where each field that was read stands."""

    def __init__(self, node: Node, path: str, findings: Findings) -> None:
        self.place = node.place
        self.path = path
        self.findings = findings
        self.places: dict[str, Place] = {}
        self._known: set[str] = set()
        self._fields: dict[str, tuple[Place, Node]] = {}
        if node.kind is Kind.TABLE:
            self._fields = {name: (place, value) for name, place, value in node.entries}
        elif node.kind is not Kind.NULL:
            findings.fault(node.place, path, "wrong_type", f"{_told(node)}, and a table of fields belongs here")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, (place, _) in self._fields.items():
            if name not in self._known:
                self.findings.fault(
                    place, self.at(name), "unknown_field", f"unknown field; {did_you_mean(name, self._known)}"
                )

    def __contains__(self, name: str) -> bool:
        """Whether the field is there and not empty. Does not count as having asked for it."""
        return name in self._fields and self._fields[name][1].kind is not Kind.NULL

    def at(self, name: str | int) -> str:
        if isinstance(name, int):
            return f"{self.path}[{name}]"
        return f"{self.path}.{name}" if self.path else name

    def fault(self, name: str, code: str, text: str) -> None:
        self.findings.fault(self.where(name), self.at(name) if name else self.path, code, text)

    def warn(self, name: str, code: str, text: str) -> None:
        self.findings.warn(self.where(name), self.at(name) if name else self.path, code, text)

    def where(self, name: str) -> Place:
        return self._fields[name][0] if name in self._fields else self.place

    def node(self, name: str, *, required: bool = False) -> Node | None:
        """The field as it stands, or None where it is unset."""
        self._known.add(name)
        found = self._fields.get(name)
        if found is None:
            if required:
                self.findings.fault(self.place, self.at(name), "missing_field", "is missing, and must be set")
            return None
        place, node = found
        if node.kind is Kind.NULL:
            if required:
                self.findings.fault(place, self.at(name), "missing_field", "is empty, and must be set")
            else:
                self.findings.warn(place, self.at(name), "empty_field", "is empty, so it counts as not set: remove it")
            return None
        self.places[name] = place
        return node

    def ignore(self, *names: str) -> None:
        """Fields that say nothing about calls."""
        self._known.update(names)

    def unsupported(self, name: str, consequence: str, *inner: str) -> None:
        """Istio knows it, we do not do it: said, never skipped in silence. `inner` are the fields it may have."""
        node = self.node(name)
        if node is None:
            return
        self.warn(name, "unsupported_field", f"is not enforced in process: {consequence}")
        if inner:
            self._close(node, self.at(name), inner)

    def _close(self, node: Node, path: str, inner: Collection[str]) -> None:
        """A slip in what is left alone is one in production."""
        for index, item in enumerate(node.items):
            self._close(item, f"{path}[{index}]", inner)
        if node.kind is not Kind.TABLE:
            return
        with Table(node, path, self.findings) as table:
            for field in inner:
                name, _, rest = field.partition(".")
                below = table.node(name) if rest else None
                table.ignore(name)
                if below is not None:
                    self._close(below, table.at(name), rest.split("+"))

    def text(self, name: str, *, required: bool = False, default: str = "") -> str:
        node = self.node(name, required=required)
        if node is None:
            return default
        if required and node.value == "":
            self.fault(name, "missing_field", "is empty, and must be set")
        return _text(node, self.at(name), self.findings, default)

    def flag(self, name: str, *, default: bool = False) -> bool:
        node = self.node(name)
        if node is None:
            return default
        if not isinstance(node.value, bool):
            self._wrong(name, node, "true or false belongs here")
            return default
        return node.value

    def whole(self, name: str, *, low: int = 0, high: int = _INT32_MAX, default: int = 0) -> int:
        node = self.node(name)
        if node is None:
            return default
        if node.kind is not Kind.WHOLE or not isinstance(node.value, int):
            self._wrong(name, node, f"a whole number belongs here{_as_number(node)}")
            return default
        if not low <= node.value <= high:
            self.fault(name, "out_of_range", f"{node.value} is not from {low} to {high}")
            return default
        return node.value

    def number(self, name: str, *, low: float = 0.0, high: float = math.inf, default: float = 0.0) -> float:
        node = self.node(name)
        if node is None:
            return default
        if isinstance(node.value, bool) or not isinstance(node.value, int | float):
            self._wrong(name, node, f"a number belongs here{_as_number(node)}")
            return default
        value = float(node.value)
        if not math.isfinite(value) or not low <= value <= high:
            upto = f"from {low:g} to {high:g}" if math.isfinite(high) else f"at least {low:g}, and finite"
            self.fault(name, "out_of_range", f"{node.written} is not {upto}")
            return default
        return value

    def percent(self, name: str, *, default: int = 0) -> int:
        return self.whole(name, high=100, default=default)

    def duration(self, name: str, *, default: float = 0.0, zero: bool = False) -> float:
        """Seconds. At least 1 ms and whole milliseconds, as Istio asks; `zero` allows 0 too."""
        node = self.node(name)
        if node is None:
            return default
        if node.kind is not Kind.TEXT or not isinstance(node.value, str):
            wanted = f"write {node.written}s for seconds" if node.kind is Kind.WHOLE and node.value else "write 30s"
            self._wrong(name, node, f"a duration belongs here: {wanted}")
            return default
        ns = duration_ns(node.value)
        if ns is None:
            self.fault(
                name,
                "bad_duration",
                f"{node.value[:40]!r} is no duration: write numbers with h, m, s or ms, as in 1m30s",
            )
            return default
        if zero and ns == 0:
            return 0.0
        if ns < _MS_NS or ns % _MS_NS or ns > _FOREVER_NS:
            self.fault(
                name,
                "out_of_range",
                f"{node.value} is not {'0 or ' if zero else ''}at least 1ms, in whole milliseconds, up to 100 years",
            )
            return default
        return ns / 1e9

    def choice(self, name: str, known: Collection[str], *, default: str = "") -> str:
        node = self.node(name)
        if node is None:
            return default
        value = self.text(name)
        if value not in known and isinstance(node.value, str):
            self.fault(name, "unknown_value", f"{value[:40]!r} is not known; {did_you_mean(value, known)}")
        return value if value in known else default

    def table(self, name: str, *, required: bool = False) -> Table | None:
        node = self.node(name, required=required)
        return None if node is None else Table(node, self.at(name), self.findings)

    def items(self, name: str, *, required: bool = False) -> tuple[tuple[Node, str], ...]:
        """The items of a list, each with its path. A list that must be there must not be empty."""
        node = self.node(name, required=required)
        if node is None:
            return ()
        if node.kind is not Kind.LIST:
            self._wrong(name, node, "a list belongs here: begin each item with '- '")
            return ()
        if required and not node.items:
            self.fault(name, "missing_field", "is empty, and at least one item must be there")
        return tuple((item, f"{self.at(name)}[{index}]") for index, item in enumerate(node.items))

    def tables(self, name: str, *, required: bool = False) -> Iterator[Table]:
        for node, path in self.items(name, required=required):
            if node.kind is Kind.NULL:
                self.findings.fault(node.place, path, "missing_field", "is empty, and a table of fields belongs here")
            else:
                yield Table(node, path, self.findings)

    def texts(self, name: str, *, required: bool = False) -> tuple[str, ...]:
        read = (_text(node, path, self.findings, "") for node, path in self.items(name, required=required))
        return tuple(text for text in read if text)

    def labels(self, name: str) -> dict[str, str]:
        """A table of names and texts."""
        node = self.node(name)
        if node is None:
            return {}
        if node.kind is not Kind.TABLE:
            self._wrong(name, node, "a table of names and texts belongs here")
            return {}
        return {key: _text(value, f"{self.at(name)}.{key}", self.findings, "") for key, _, value in node.entries}

    def entries(self, name: str) -> tuple[tuple[str, Place, Node], ...]:
        """A table whose names are free."""
        node = self.node(name)
        if node is None:
            return ()
        if node.kind is not Kind.TABLE:
            self._wrong(name, node, "a table of names belongs here")
            return ()
        return node.entries

    def spots(self, **names: str) -> dict[str, Place]:
        """Attribute to place, for those of the fields that were written."""
        return {attribute: self.places[name] for attribute, name in names.items() if name in self.places}

    def one_of(self, *names: str) -> str:
        """Which of fields that exclude each other is set, or none of them."""
        there = [name for name in names if name in self]
        if len(there) > 1:
            self.fault(there[1], "contradiction", f"{there[0]} is set too, and only one of {', '.join(names)} may be")
        return there[0] if there else ""

    def _wrong(self, name: str, node: Node, wanted: str) -> None:
        self.fault(name, "wrong_type", f"{_told(node)}; {wanted}")


def _text(node: Node, path: str, findings: Findings, default: str) -> str:
    if node.kind is Kind.TEXT and isinstance(node.value, str):
        return node.value
    hint = "text belongs here" if node.kind in {Kind.TABLE, Kind.LIST, Kind.NULL} else "put it in quotes"
    findings.fault(node.place, path, "wrong_type", f"{_told(node)}; {hint}")
    return default


def _as_number(node: Node) -> str:
    """For '5' and 50%."""
    bare = node.written.strip().removesuffix("%").strip()
    return f": write {bare}" if node.kind is Kind.TEXT and len(bare) < 20 and bare.isascii() and bare.isdigit() else ""


def _told(node: Node) -> str:
    if node.kind in {Kind.TABLE, Kind.LIST, Kind.NULL}:
        return f"is {node.kind}"
    written = repr(node.written[:40]) if node.kind is Kind.TEXT else node.written[:40]
    return f"{written} is {node.kind} to YAML"
