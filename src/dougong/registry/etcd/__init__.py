"""The registry on an etcd cluster, for systems of more than one machine.

etcd's v3 API spoken over grpc.aio directly; nobody needs an etcd package. The layers, each in a file: `messages` (what
goes over the wire), `endpoints` (one connection), `failures` (what an error means), `cluster` (calls that find an
endpoint that answers), `position` and `watching` (a watch that goes on), `registry` (etcd's words for ours).

Imported when an `etcd://` URL is opened, so that nobody else pays for gRPC.
"""

from dougong.registry.etcd.registry import EtcdRegistry
from dougong.registry.etcd.settings import EtcdSettings

__all__ = ["EtcdRegistry", "EtcdSettings"]
