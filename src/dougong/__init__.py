"""Dougong turns a Python CRUD service into a distributed system that holds under load, and proves it.

Everything is imported from its room: `from dougong.app import App`, `from dougong.contract import Message, rpc`,
`from dougong.tcc import Participant`. A program pays only for the rooms it uses.
"""

import os

# Before anybody imports gRPC, which looks once. Processes are started by fork and exec: there is nothing to keep alive
# in between, and gRPC's fork handlers have crashed them there.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
