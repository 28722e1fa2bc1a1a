"""The client for pages: one ES module without dependencies, which an app serves beside its pages."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["browser_client"]


def browser_client() -> bytes:
    """`live.js`: `import { Live } from "./live.js"`. Its head says how it is used."""
    return (files("dougong.gateway") / "static" / "live.js").read_bytes()
