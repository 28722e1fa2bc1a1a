"""What projects declare for our commands: claims, rushes, stories. They are found by entry point, so that a user's
project has its own beside ours:

[project.entry-points."dougong.claims"]
checkout = "myshop.proof:checkout"

Only the one asked for is loaded: others may be broken, or need what is not installed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import metadata
from typing import Protocol, TypeVar

import msgspec

from dougong.errors import Invalid

__all__ = ["Kind"]


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Declared = TypeVar("Declared", bound=_Named)


class Kind(msgspec.Struct, frozen=True):
    """One kind of what can be declared."""

    group: str
    """The entry point group, `dougong.claims`."""
    noun: str
    """How people call one: claim."""

    def names(self) -> list[str]:
        """All that are declared, in order. Nothing is loaded."""
        return sorted(entry.name for entry in metadata.entry_points(group=self.group))

    def load(self, name: str) -> object:
        """The one that is declared under `name`.

        Raises `Invalid`: `not_declared` with those that are, `missing_extra` with what is to be installed, or
        `entry_point` with why it cannot be loaded.
        """
        for entry in metadata.entry_points(group=self.group):
            if entry.name == name:
                return self._load(entry)
        known = ", ".join(self.names()) or "none"
        raise Invalid(f"there is no {self.noun} {name!r}; there are: {known}", code="not_declared")

    def find(self, name: str, of: type[Declared]) -> Declared:
        """The same, when all of this kind are of one type, and each is declared under its own name."""
        found = self.load(name)
        if not isinstance(found, of):
            raise self.unfit(name, f"is not a {of.__name__} but {found!r}")
        if found.name != name:
            raise self.unfit(name, f"is a {self.noun} called {found.name!r}")
        return found

    def unfit(self, name: str, why: str) -> Invalid:
        """To raise when what was loaded cannot be used."""
        return Invalid(f"entry point {name!r} of {self.group} {why}", code="invalid_declaration")

    def _load(self, entry: metadata.EntryPoint) -> object:
        try:
            return entry.load()
        except ModuleNotFoundError as error:
            if extra := _extra_with(error.name or "", entry):
                raise Invalid(
                    f"{self.noun} {entry.name!r} needs {error.name}, which is not installed; pip install '{extra}'",
                    code="missing_extra",
                ) from error
            raise self._broken(entry, error) from error
        except (ImportError, AttributeError) as error:
            raise self._broken(entry, error) from error

    def _broken(self, entry: metadata.EntryPoint, error: Exception) -> Invalid:
        where = f"entry point {entry.name!r} of {self.group} ({entry.value})"
        return Invalid(f"{where} cannot be loaded: {error}", code="entry_point")


_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+).*;.*\bextra *== *['\"]([A-Za-z0-9._-]+)['\"]")


def _extra_with(module: str, entry: metadata.EntryPoint) -> str:
    """`dougong[kafka]` when that extra of the declaring project brings `module`; empty when none is known to."""
    if entry.dist is None:
        return ""
    requires: Iterable[str] = entry.dist.requires or ()
    for requirement in requires:
        found = _REQUIREMENT.match(requirement)
        if found and _plain(found[1]) == _plain(module.partition(".")[0]):
            return f"{entry.dist.name}[{found[2]}]"
    return ""


def _plain(name: str) -> str:
    """Packages and their modules differ in such signs only, if they are named well."""
    return re.sub(r"[-_.]+", "-", name).lower()
