"""`dougong run`: one process, what a container or Kubernetes runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dougong.app import load_app, load_run_settings, run_apps

__all__ = ["run"]


async def run(
    *targets: str,
    data: Path | None = None,
    port: int | None = None,
    http: str | None = None,
    log_json: Annotated[bool | None, Parameter(negative="")] = None,
) -> None:
    """Run one or more apps in this process until Ctrl-C or SIGTERM.

    Settings come from `DOUGONG_…` in the environment; flags outrank them.

    Parameters
    ----------
    targets
        Apps as `module:attribute`, e.g. `shop.orders:app`.
    data
        Directory of databases, keys and the local registry.
    port
        gRPC port; 0 takes a free one.
    http
        `host:port` of the HTTP front, health and metrics.
    log_json
        Log lines as JSON.
    """
    flags = {"data": str(data) if data else None, "port": port, "http": http, "log_json": log_json}
    overrides = {name: value for name, value in flags.items() if value is not None}
    await run_apps([load_app(target) for target in targets], load_run_settings(overrides))
