"""`dougong doctor`: what this machine can carry, and what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import resource
import shutil
from pathlib import Path

import msgspec
import psutil
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dougong.app import check_advertise, check_port, default_system, load_run_settings, load_system
from dougong.cli.parameters import Json
from dougong.errors import Conflict, Error

__all__ = ["Finding", "doctor", "examine"]

# Engine: its server's binary, its driver's module, the extra that installs the driver.
_ENGINES = {
    "etcd": ("etcd", "grpc", "etcd"),
    "MariaDB": ("mariadbd", "asyncmy", "mysql"),
    "PostgreSQL": ("postgres", "psycopg", "postgres"),
    "Kafka": ("kafka-server-start.sh", "confluent_kafka", "kafka"),
    "Redis": ("redis-server", "redis", "redis"),
}
_DESCRIPTORS_WANTED = 4096
_FREE_BYTES_WANTED = 1 << 30


class Finding(msgspec.Struct, frozen=True):
    """One thing looked at."""

    what: str
    state: str
    """`ok`, `note` (works, with less) or `bad` (does not work)."""
    found: str
    remedy: str = ""


def doctor(*, json: Json = False) -> int:
    """Say what this machine can carry and what is missing. Exit code 1 when something needed is."""
    findings = examine()
    if json:
        print(msgspec.json.encode(findings).decode())
    else:
        table = Table("", "what", "found", "remedy", box=None)
        marks = {"ok": "[green]✓[/]", "note": "[yellow]–[/]", "bad": "[red]✗[/]"}
        for finding in findings:
            table.add_row(marks[finding.state], finding.what, escape(finding.found), escape(finding.remedy))
        Console().print(table)
    return int(any(finding.state == "bad" for finding in findings))


def examine() -> list[Finding]:
    """Look at everything; starts nothing and changes nothing."""
    return [_python(), _cores(), _memory(), _descriptors(), _disk(), *_ports(), _called_at(), *_engines()]


def _python() -> Finding:
    return Finding("Python", "ok", platform.python_version())  # an older one could not have come this far


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding("cores", "ok" if cores > 1 else "note", str(cores), "" if cores > 1 else "a system shares one core")


def _memory() -> Finding:
    free = psutil.virtual_memory().available
    found = f"{free / 2**30:.1f} GiB available"
    if free < 2**30:
        return Finding("memory", "note", found, "the shop takes about 0.5 GiB; close something")
    return Finding("memory", "ok", found)


def _descriptors() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{soft} per process (hard limit {hard})"
    if soft < _DESCRIPTORS_WANTED:
        return Finding("file descriptors", "note", found, f"ulimit -n {min(hard, 65536)} allows more connections")
    return Finding("file descriptors", "ok", found)


def _disk() -> Finding:
    free = shutil.disk_usage(".").free
    found = f"{free / 2**30:.1f} GiB free here"
    if free < _FREE_BYTES_WANTED:
        return Finding("disk", "note", found, "databases stop accepting when it is full; free some space")
    return Finding("disk", "ok", found)


def _ports() -> list[Finding]:
    findings = []
    wanted = [("status page", "127.0.0.1:8600")]
    try:
        for name, app in load_system(default_system()).apps.items():
            wanted += [(name, address) for address in (app.http, app.live) if address]
    except Error as error:
        findings.append(Finding("system file", "bad", error.message, "dougong up SYSTEM.toml names another"))
    for who, address in wanted:
        try:
            check_port(address, who, "")
            findings.append(Finding(f"port for {who}", "ok", f"{address} is free"))
        except Conflict:
            findings.append(
                Finding(f"port for {who}", "note", f"{address} is taken", "stop who has it, or set another")
            )
    return findings


def _called_at() -> Finding:
    what = "address for others"
    try:
        settings = load_run_settings()
        check_advertise(settings)
    except Error as error:
        return Finding(what, "bad", error.message, "the settings are DOUGONG_… in the environment")
    return Finding(what, "ok", settings.advertise or f"as DOUGONG_HOST={settings.host} says")


def _engines() -> list[Finding]:
    findings = []
    for engine, (binary, module, extra) in _ENGINES.items():
        server = shutil.which(binary, path=_server_path()) is not None
        driver = importlib.util.find_spec(module) is not None
        found = f"server {'here' if server else 'not here'}, driver {'installed' if driver else 'not installed'}"
        remedy = "" if driver else f"pip install 'dougong[{extra}]'"
        findings.append(Finding(engine, "ok" if server and driver else "note", found + " (optional)", remedy))
    return findings


def _server_path() -> str:
    """Debian keeps servers outside of an ordinary user's PATH."""
    places = [os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"]
    return os.pathsep.join([*places, *map(str, Path("/usr/lib/postgresql").glob("*/bin"))])
