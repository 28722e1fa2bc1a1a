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

from dougong.app._advertise import check_advertise
from dougong.app._app import App, load_app
from dougong.app._connections import (
    ConnectionInfo,
    ConnectionList,
    Connections,
    DrainConnections,
    Drained,
    GatewayAddress,
    GetConnections,
    Kick,
    Kicked,
)
from dougong.app._following import FollowedKeys
from dougong.app._keys import KeyState
from dougong.app._lines import LogLine, printable, read_log_line
from dougong.app._mesh import load_mesh
from dougong.app._network import network_probe, network_transport
from dougong.app._note import UpNote, read_note, running_registry_url
from dougong.app._participants import Participants
from dougong.app._ports import check_port, parse_address
from dougong.app._process import Process, ProcessState
from dougong.app._rotation import KEYS_KEEP_S, KEYS_WAIT_S, KeyInfo, retire_key, rotate_keys, show_keys
from dougong.app._run import run_apps
from dougong.app._secrets import Secrets, ensure_secrets, read_secrets
from dougong.app._settings import DATABASE_PREFIX, RunSettings, load_run_settings
from dougong.app._shards import configured_layouts, shards_layout
from dougong.app._status import (
    AppStatus,
    GetMesh,
    GetStatus,
    Glance,
    MeshStatus,
    Statistic,
    Status,
    StatusRow,
    StatusTable,
)
from dougong.app._supervisor import Supervisor
from dougong.app._system import (
    AppSpec,
    DataDirectory,
    JobsSpec,
    MeshSpec,
    ShardsSpec,
    System,
    SystemName,
    default_system,
    load_system,
)
from dougong.app._urls import configured_database_url, configured_registry_url, database_url, registry_url

__all__ = [
    "DATABASE_PREFIX",
    "KEYS_KEEP_S",
    "KEYS_WAIT_S",
    "App",
    "AppSpec",
    "AppStatus",
    "ConnectionInfo",
    "ConnectionList",
    "Connections",
    "DataDirectory",
    "DrainConnections",
    "Drained",
    "FollowedKeys",
    "GatewayAddress",
    "GetConnections",
    "GetMesh",
    "GetStatus",
    "Glance",
    "JobsSpec",
    "KeyInfo",
    "KeyState",
    "Kick",
    "Kicked",
    "LogLine",
    "MeshSpec",
    "MeshStatus",
    "Participants",
    "Process",
    "ProcessState",
    "RunSettings",
    "Secrets",
    "ShardsSpec",
    "Statistic",
    "Status",
    "StatusRow",
    "StatusTable",
    "Supervisor",
    "System",
    "SystemName",
    "UpNote",
    "check_advertise",
    "check_port",
    "configured_database_url",
    "configured_layouts",
    "configured_registry_url",
    "database_url",
    "default_system",
    "ensure_secrets",
    "load_app",
    "load_mesh",
    "load_run_settings",
    "load_system",
    "network_probe",
    "network_transport",
    "parse_address",
    "printable",
    "read_log_line",
    "read_note",
    "read_secrets",
    "registry_url",
    "retire_key",
    "rotate_keys",
    "run_apps",
    "running_registry_url",
    "shards_layout",
    "show_keys",
]
