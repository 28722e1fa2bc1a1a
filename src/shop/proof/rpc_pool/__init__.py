"""What a pool of long-lived batch streams is worth: the same orders over the same machine's loopback, three ways.

`placing` is the service, in memory, so that carrying is all that is measured. `plain` is how people carry its orders
with `grpc.aio` as it comes: a stream per batch, or a call per order. `load` keeps callers at it from a process of its
own, `python -m shop.proof.rpc_pool`; `claim` judges.
"""
