"""The claim about deploys: every worker of a gateway is replaced under load, and nobody misses a message.

`python -m shop.proof.drill ROLE OPTIONS` is one of its processes: the hub, the gateway, or clients (`crowd`); `claim`
starts them, publishes, asks for the restart, and judges.
"""

from shop.proof.drill.claim import Plan, Run, connections_drill, run_drill

__all__ = ["Plan", "Run", "connections_drill", "run_drill"]
