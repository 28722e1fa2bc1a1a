"""URLs of what stands in a data directory, whatever characters its path has."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

__all__ = ["database_url", "registry_url"]


def registry_url(data: Path) -> str:
    """The registry that the processes of one machine share."""
    return f"local://{quote(str(data.absolute() / 'registry.db'))}"


def database_url(data: Path, app: str) -> str:
    """The database of an app."""
    return f"sqlite:///{quote(str(data.absolute() / f'{app}.db'))}"
