"""Where a figure was measured: without machine, versions and commit a number says nothing to anybody else."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import time
from pathlib import Path

import msgspec
import psutil

from dougong.evidence.statistics import median

__all__ = ["Machine", "commit_of", "describe_machine", "tree_of"]

_GIT_TIMEOUT_S = 5.0


class Machine(msgspec.Struct, frozen=True):
    """What a measurement ran on."""

    cpu: str
    cores: int
    """That this process may use."""
    memory_gib: float
    system: str
    python: str
    sync_ms: float
    """Median time to make 4 KiB durable in the working directory: what every synced commit costs at least."""
    load: float
    """Mean number of busy processes in the minute before: above 0.5 somebody else was measuring too."""
    versions: dict[str, str]
    """Of this package and of what it depends on."""


def describe_machine(workdir: Path) -> Machine:
    """This machine, now. Takes some tens of milliseconds."""
    return Machine(
        cpu=_cpu(),
        cores=len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        system=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        sync_ms=_sync_ms(workdir),
        load=round(psutil.getloadavg()[0], 2),
        versions=_versions("dougong"),
    )


def commit_of(directory: Path) -> str:
    """The commit of the sources in `directory`, `+changes` when they differ; outside git the package's version."""
    try:
        commit = _git(directory, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(directory, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return f"dougong {_versions('dougong').get('dougong', 'of unknown version')}"


def tree_of(directory: Path) -> str:
    """Which sources ran, by content: the folder at the top of the repository that `directory` lies in and its git tree,
    as in `src:3f2a…`. `git rev-parse HEAD:src` prints it for as long as nothing in there changes, in whatever commit.

    `+changes` when they differ from it; empty outside git.
    """
    try:
        top = _git(directory, "rev-parse", "--show-prefix").partition("/")[0]
        root = _git(directory, "rev-parse", "--show-toplevel")
        tree = _git(directory, "rev-parse", f"HEAD:{top}")
        changed = _git(Path(root), "status", "--porcelain", "--untracked-files=no", "--", top or ".")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{top}:{tree}" + ("+changes" if changed else "")


def _git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 (our own arguments)
        ["git", "-C", str(directory), *arguments],  # noqa: S607 (whichever git the person uses)
        capture_output=True,
        text=True,
        timeout=_GIT_TIMEOUT_S,
        check=True,
    )
    return done.stdout.strip()


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def _sync_ms(workdir: Path) -> float:
    path = workdir / f".sync-{os.getpid()}"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        times: list[float] = []
        for n in range(20):
            os.pwrite(descriptor, b"x" * 4096, n * 4096)
            start = time.perf_counter()
            os.fsync(descriptor)
            times.append(time.perf_counter() - start)
    finally:
        os.close(descriptor)
        path.unlink()
    return round(median(times) * 1000, 3)


def _versions(package: str) -> dict[str, str]:
    names = [package]
    try:
        requires = importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    names += [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in requires]
    versions: dict[str, str] = {}
    for name in sorted(set(names)):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed
    return versions
