"""Where the system's data is, for commands that look at a running one."""

from __future__ import annotations

from pathlib import Path

from dougong.app import default_system, load_system, read_note
from dougong.errors import NotFound

__all__ = ["data_directory"]


def data_directory(data: Path | None) -> Path:
    """The given directory, or `var/NAME` of the default system. Raises `NotFound` when nothing was ever up there."""
    directory = data if data is not None else Path("var") / load_system(default_system()).name
    if not (directory / "registry.db").exists() and read_note(directory) is None:
        raise NotFound(
            f"no system has been up on {directory}; start one with 'dougong up', or name its directory with --data",
            code="no_system",
        )
    return directory
