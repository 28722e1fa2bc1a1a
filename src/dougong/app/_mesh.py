"""From `[mesh]` of a system file to the policy of a process, and what it tells about it."""

from __future__ import annotations

from pathlib import Path

from dougong.app._system import System
from dougong.mesh import EjectionEvent, Mesh
from dougong.telemetry import get_logger

__all__ = ["load_mesh"]

log = get_logger("dougong.mesh")


def load_mesh(system: System | None, path: Path, app: str, *, version: str = "", zone: str = "") -> Mesh | None:
    """The policy that the system file at `path` names, as `app` has to follow it; None where it names none.

    Raises `Invalid` with every fault of every policy file; what is known and not enforced is logged.
    """
    if system is None or system.mesh is None:
        return None
    spec = system.mesh
    mesh = Mesh.load(
        [path.parent / name for name in spec.policies],
        mode=spec.mode,
        namespace=spec.namespace,
        hosts=spec.hosts,
        locality=zone,
        labels={"app": app, "version": version},
        sink=_ejected,
    )
    for warning in mesh.policies.warnings:
        log.warning("policy", finding=str(warning))
    return mesh


def _ejected(event: EjectionEvent) -> None:
    log.warning(
        "host_ejected" if event.action == "EJECT" else "host_is_back",
        cluster=event.cluster,
        upstream=event.upstream,
        why=str(event.type or ""),
        enforced=event.enforced,
        ejections=event.num_ejections,
    )
