"""A swarm: as many client sessions as a machine can hold, to see what a gateway makes of them.

The one idea: **what offers the load must cost less than what bears it**. A session is a descriptor and one byte of
state in a process of plain epoll, and the processes are forked from one, so that they share all they can.

    async with swarm_of(SwarmOptions(targets=["127.0.0.1:8700"], sessions=30_000)) as swarm:
        await swarm.connect()
        alive = await swarm.check()

It speaks to this machine only, to no more sessions and for no longer than its options may say.
"""

from dougong.evidence.swarm.crew import Crew
from dougong.evidence.swarm.options import Connected, Counted, SwarmOptions, Timed
from dougong.evidence.swarm.swarm import Swarm, quantiles_of, swarm_of

__all__ = ["Connected", "Counted", "Crew", "Swarm", "SwarmOptions", "Timed", "quantiles_of", "swarm_of"]
