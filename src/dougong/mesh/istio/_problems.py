"""What is wrong with a file, gathered, so that one start tells all there is to repair."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import msgspec

from dougong.errors import Invalid

__all__ = ["Finding", "Findings", "Place", "Stop", "did_you_mean", "in_order"]

_SHOWN_MAX = 50
_KEPT_MAX = 1000


class Place(msgspec.Struct, frozen=True):
    """Lines and columns count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Finding(msgspec.Struct, frozen=True):
    """One fault or one warning. `code` is stable, `text` says what and the remedy."""

    place: Place
    path: str
    """Of the field, as `spec.trafficPolicy.outlierDetection.interval`; empty for the file itself."""
    code: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.path}: {self.text}" if self.path else f"{self.place}: {self.text}"


class Stop(Exception):
    """The file cannot be read any further. Never leaves the reader."""

    def __init__(self, place: Place, code: str, text: str) -> None:
        super().__init__(text)
        self.finding = Finding(place, "", code, text)


class Findings:
    """Faults and warnings of one load."""

    def __init__(self) -> None:
        self.faults: list[Finding] = []
        self.warnings: list[Finding] = []

    def fault(self, place: Place, path: str, code: str, text: str) -> None:
        if len(self.faults) < _KEPT_MAX:
            self.faults.append(Finding(place, path, code, text))

    def warn(self, place: Place, path: str, code: str, text: str) -> None:
        if len(self.warnings) < _KEPT_MAX:
            self.warnings.append(Finding(place, path, code, text))

    def refuse(self) -> None:
        """Raise `Invalid` for all faults together; code and fields are those of the first."""
        if not self.faults:
            return
        faults = in_order(self.faults)
        first = faults[0]
        lines = [str(fault) for fault in faults[:_SHOWN_MAX]]
        if len(faults) > _SHOWN_MAX:
            lines.append(f"and {len(faults) - _SHOWN_MAX} more")
        raise Invalid(
            "\n".join(lines),
            code=first.code,
            path=first.path,
            file=first.place.file,
            line=first.place.line,
            column=first.place.column,
        )


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """As they stand in the files, the files in the order in which they were read."""
    found = tuple(findings)
    files = {file: index for index, file in enumerate(dict.fromkeys(finding.place.file for finding in found))}
    return tuple(sorted(found, key=lambda each: (files[each.place.file], each.place.line, each.place.column)))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message: the nearest name there is, or all there are."""
    names = sorted(known)
    lowered = {option.lower().replace("_", ""): option for option in names}
    near = difflib.get_close_matches(name.lower().replace("_", "")[:100], lowered, n=1, cutoff=0.6)
    if near:
        return f"did you mean {lowered[near[0]]}?"
    if len(names) == 1:
        return f"there is only {names[0]}"
    return f"there are {', '.join(names)}" if len(names) <= 12 else f"there are {', '.join(names[:12])} and more"
