"""Claims and rushes are declared by whoever's they are, and found by entry point: a user's project has its own.

[project.entry-points."dougong.claims"]
checkout = "myshop.proof:checkout"
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

from dougong.errors import Invalid
from dougong.evidence.claim import Claim
from dougong.evidence.scenario import Scenario

__all__ = ["find_claims", "find_rushes"]


def find_claims() -> dict[str, Claim]:
    """All declared claims by name. Raises `Invalid` naming the entry point that cannot be used."""
    claims: dict[str, Claim] = {}
    for name, value in _load("dougong.claims").items():
        if not isinstance(value, Claim):
            raise Invalid(f"entry point {name!r} of dougong.claims is not a Claim but {value!r}", code="invalid_claim")
        claims[value.name] = value
    return claims


def find_rushes() -> dict[str, Scenario[Any, Any]]:
    """All declared scenarios by entry point name."""
    rushes: dict[str, Scenario[Any, Any]] = {}
    for name, value in _load("dougong.rushes").items():
        scenario: Any = value
        if not callable(getattr(value, "open", None)):
            raise Invalid(f"entry point {name!r} of dougong.rushes has no open(options)", code="invalid_rush")
        rushes[name] = scenario
    return rushes


def _load(group: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for entry in sorted(importlib.metadata.entry_points(group=group), key=lambda e: e.name):
        try:
            found[entry.name] = entry.load()
        except (ImportError, AttributeError) as error:
            raise Invalid(
                f"entry point {entry.name!r} of {group} ({entry.value}) cannot be loaded: {error}", code="entry_point"
            ) from error
    return found
