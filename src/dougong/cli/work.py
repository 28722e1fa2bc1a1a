"""`dougong work`: one process that only works on the jobs of apps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dougong.app import load_app, load_run_settings, run_apps
from dougong.errors import Invalid

__all__ = ["work"]


async def work(
    *targets: str, data: Path | None = None, log_json: Annotated[bool | None, Parameter(negative="")] = None
) -> None:
    """Work on the jobs of one or more apps until Ctrl-C or SIGTERM, and serve nothing else.

    Settings come from `DOUGONG_…` in the environment; flags outrank them. `workers = 2` in `[apps.NAME]` of a system
    file has `dougong up` start two of these beside the app.

    Parameters
    ----------
    targets
        Apps as `module:attribute`, e.g. `shop.orders:app`.
    data
        Directory of databases, keys and the local registry.
    log_json
        Log lines as JSON.
    """
    apps = [load_app(target) for target in targets]
    for app in apps:
        if not app.has_jobs:
            raise Invalid(f"app {app.name} has no jobs to work on: pass jobs=[...] to its App", code="no_jobs")
    flags = {"data": str(data) if data else None, "log_json": log_json}
    overrides = {"duty": "work", **{name: value for name, value in flags.items() if value is not None}}
    await run_apps(apps, load_run_settings(overrides))
