"""`dougong contract`: keep the committed field numbers in step with the classes.

Each package that defines services has one lock beside it (`contract.lock.toml`); the toolkit's own messages have one
too.
"""

from __future__ import annotations

import importlib
from collections import defaultdict
from pathlib import Path

import cyclopts
from rich.console import Console

from dougong.app import Connections, Status, default_system, load_app, load_system
from dougong.contract import LOCK_NAME, Service, check_lock, write_lock
from dougong.jobs import JobsService, SchedulesService
from dougong.tcc import participant_service

__all__ = ["contract"]

contract = cyclopts.App(name="contract", help="Keep the committed field numbers in step with the classes.")


@contract.command
def generate(system: Path | None = None) -> None:
    """Write the locks of a system's contracts: known numbers stay, new fields get the next, deleted ones are reserved.

    Parameters
    ----------
    system
        System file; `system.toml` here, or the shop, if left out.
    """
    console = Console()
    for path, services in _contracts(system).items():
        changed = write_lock(services, path)
        console.print(f"{'wrote' if changed else 'unchanged:'} {path}", highlight=False)


@contract.command
def check(system: Path | None = None) -> int:
    """Say what is out of step. Exit code 1 when anything is.

    Parameters
    ----------
    system
        System file; `system.toml` here, or the shop, if left out.
    """
    console = Console()
    problems = [problem for path, services in _contracts(system).items() for problem in check_lock(services, path)]
    for problem in problems:
        console.print(problem, markup=False, highlight=False)
    if not problems:
        console.print("contracts and locks agree")
    return int(bool(problems))


def _contracts(system: Path | None) -> dict[Path, list[type[Service]]]:
    """Lock → the services whose messages it numbers: by the package that defines them."""
    found: defaultdict[str, list[type[Service]]] = defaultdict(list)
    for spec in load_system(system or default_system()).apps.values():
        app = load_app(spec.target)
        for service in app.services:
            found[service.__module__.partition(".")[0]].append(service)
        for participant in app.participants[:1]:  # all speak the same messages
            found["dougong"] = [Connections, Status, JobsService, SchedulesService, participant_service(participant)]
    return {_package(name) / LOCK_NAME: services for name, services in found.items()}


def _package(name: str) -> Path:
    return Path(str(importlib.import_module(name).__file__)).parent
