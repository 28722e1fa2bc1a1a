"""Profiles of a system file: what another place needs otherwise, and nothing else.

`[profiles.cluster]` says where the registry is and which apps differ in what; everything it does not name stays as the
file says. So one file tells how the system runs on a laptop and on many machines, and no code asks where it is.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import cast

import msgspec

from dougong.errors import Invalid

__all__ = ["ProfileSpec", "unknown_profile", "with_profile"]

Table = dict[str, object]


class ProfileSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One profile. Tables of apps are laid over those of the file field by field, their settings key by key."""

    registry: str | None = None
    apps: dict[str, dict[str, object]] = {}


def with_profile(tables: Mapping[str, object], name: str) -> Table:
    """A system file's tables with a profile laid over them. Raises `Invalid` for an app that the file does not have."""
    profiles = cast("Mapping[str, Table]", tables["profiles"])
    profile = profiles[name]
    apps = cast(Table, tables["apps"])
    for app in cast(Table, profile.get("apps", {})):
        if app not in apps:
            raise Invalid(f"apps.{app}: the system has no such app; there are {', '.join(apps)}", code="invalid_system")
    laid = cast(Table, _over(dict(tables), profile))
    return {**laid, "profile": name}


def unknown_profile(path: Path, name: str, known: Collection[str]) -> Invalid:
    """Says what there is, the likeliest first."""
    if not known:
        remedy = f"it has none; add [profiles.{name}]"
    else:
        close = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(known))}"
    return Invalid(f"system file {path} has no profile {name!r}: {remedy}", code="unknown_profile", profile=name)


def _over(below: object, above: object) -> object:
    """Tables merge, everything else replaces."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {**below, **{key: _over(below.get(key), value) for key, value in above.items()}}
