"""Claims and rushes are declared by whoever's they are."""

from __future__ import annotations

from typing import Any

from dougong.declared import Kind
from dougong.evidence.claim import Claim
from dougong.evidence.scenario import Scenario

__all__ = ["claim_names", "find_claim", "find_rush", "rush_names"]

_CLAIMS = Kind("dougong.claims", "claim")
_RUSHES = Kind("dougong.rushes", "rush")


def claim_names() -> list[str]:
    """All that are declared."""
    return _CLAIMS.names()


def find_claim(name: str) -> Claim:
    """The one that is declared under `name`. Raises `Invalid` as `Kind.load` does."""
    return _CLAIMS.find(name, Claim)


def rush_names() -> list[str]:
    """All that are declared."""
    return _RUSHES.names()


def find_rush(name: str) -> Scenario[Any, Any]:
    """The one that is declared under `name`. Raises `Invalid` as `Kind.load` does."""
    scenario: Any = _RUSHES.load(name)
    if not callable(getattr(scenario, "open", None)):
        raise _RUSHES.unfit(name, "has no open(options)")
    found: Scenario[Any, Any] = scenario
    return found
