"""Simulated worlds: the code of a whole system, run in one thread under every fault, thousands of times, from seeds.

The one idea: **a seed is a story.** Time, the order in which code runs, delays, losses, crashes, full disks and wrong
clocks are all drawn from one number, so whatever a seed finds it finds again, and a fault can be left out to see if it
mattered. The code under test is the real one: it runs on a virtual-time event loop, keeps its data in a `Store`,
calls through a `Transport` and reads a `Clock`; the world gives it simulated ones.

    async def tell(world: World, without: str) -> Sequence[str]:
        async def serve(process: Process) -> None:      # what a node runs, again after each crash
            await Server([Stock(process.store())], transport=process.transport).start("stock:1")

        world.node("stock").start(serve)
        ...                                             # clients call, and tell `world.history` what they were told
        world.heal()                                    # no more faults; wait until all is quiet
        return conserved("stock", 30, dict(...))        # what is wrong, in words

    story = Story(name="stock", title="…", tell=tell, chaos=Chaos(crash_every_s=5.0, request_lost=0.05))

`dougong simulate stock --seeds 10000` tells it, names the first seed that finds something, and shrinks it to the fewest
faults. A story can be told without one of its safeguards; some seed must then find something, or the story is blind.

It does not: simulate threads, sockets or engines other than SQLite, prove the absence of bugs, or catch code that draws
random numbers or time from elsewhere (`dougong simulate --seed` tells a story twice and says so).
"""

from dougong.simulation.checks import conserved, durable, monotonic, no_effect_after, one_outcome
from dougong.simulation.clocks import NodeClock
from dougong.simulation.disk import Database
from dougong.simulation.faults import Chaos, Fault
from dougong.simulation.history import Call, History, Outcome
from dougong.simulation.loop import Stuck, VirtualLoop
from dougong.simulation.network import Network
from dougong.simulation.node import Main, Node, Process, ProcessDied
from dougong.simulation.running import Progress, first_difference, run_seeds, run_shrink, run_traced
from dougong.simulation.shrinking import fewest, shrink
from dougong.simulation.story import Story, Telling, find_story, story_names, tell
from dougong.simulation.world import World

__all__ = [
    "Call",
    "Chaos",
    "Database",
    "Fault",
    "History",
    "Main",
    "Network",
    "Node",
    "NodeClock",
    "Outcome",
    "Process",
    "ProcessDied",
    "Progress",
    "Story",
    "Stuck",
    "Telling",
    "VirtualLoop",
    "World",
    "conserved",
    "durable",
    "fewest",
    "find_story",
    "first_difference",
    "monotonic",
    "no_effect_after",
    "one_outcome",
    "run_seeds",
    "run_shrink",
    "run_traced",
    "shrink",
    "story_names",
    "tell",
]
