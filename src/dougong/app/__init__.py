"""Apps: what a user writes to make a process, and what runs it.

An `App` names its services, its part in transactions, its database and its background work. Everything a service needs
comes through its constructor, found by type: its `Store`, a `Clock`, its settings, other services (as clients, found
through the registry), whatever a provider makes.

    class Inventory(Service, package="shop.v1"):
        def __init__(self, store: Store) -> None: ...

    app = App("inventory", services=[Inventory], migrations="shop.inventory.migrations")

`dougong run shop.inventory:app` serves it; a `System` file lists the apps that `dougong up` starts together, each as
its own process under a `Supervisor`. There is no global state: `run_apps` may host several apps in one process.

Not here: scheduling over several machines. There, Kubernetes runs `dougong run`, and the registry is etcd.
"""

from dougong.app._app import App, load_app
from dougong.app._lines import LogLine, printable, read_log_line
from dougong.app._participants import Participants
from dougong.app._ports import check_port, parse_address
from dougong.app._run import run_apps
from dougong.app._secrets import Secrets, ensure_secrets, read_secrets
from dougong.app._settings import DATABASE_PREFIX, RunSettings, load_run_settings
from dougong.app._shards import configured_layouts, shards_layout
from dougong.app._status import AppStatus, GetStatus, Glance, Status, StatusRow, StatusTable
from dougong.app._supervisor import Process, ProcessState, Supervisor
from dougong.app._system import AppSpec, ShardsSpec, System, default_system, load_system
from dougong.app._urls import configured_database_url, database_url, registry_url

__all__ = [
    "DATABASE_PREFIX",
    "App",
    "AppSpec",
    "AppStatus",
    "GetStatus",
    "Glance",
    "LogLine",
    "Participants",
    "Process",
    "ProcessState",
    "RunSettings",
    "Secrets",
    "ShardsSpec",
    "Status",
    "StatusRow",
    "StatusTable",
    "Supervisor",
    "System",
    "check_port",
    "configured_database_url",
    "configured_layouts",
    "database_url",
    "default_system",
    "ensure_secrets",
    "load_app",
    "load_run_settings",
    "load_system",
    "parse_address",
    "printable",
    "read_log_line",
    "read_secrets",
    "registry_url",
    "run_apps",
    "shards_layout",
]
