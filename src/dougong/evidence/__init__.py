"""Evidence: every number is re-runnable, on the reader's own machine.

A `Claim` says what was there, what was to be done, what was done and what came of it, and names the experiment that can
refute it. `prove` runs baseline and ours in turn, pair by pair, and judges the medians of what was measured against
the claim's thresholds; what this machine cannot show is *not shown*, never passed. A `Scenario` is a kind of load:
`rush` offers it as customers do (open loop: on schedule, whether or not earlier answers came), measures latency from
the moment each request was due, keeps a journal of outcomes, and has the system's books checked against it.

    faster = Claim(name="faster", title="…", situation="…", task="…", action="…",
                   result="{ours[orders_per_s]:,.0f}/s, {ratio[orders_per_s]:.1f} × the baseline",
                   experiment=race, ratios={"orders_per_s": Ratio("orders_per_s", "orders_per_s")},
                   thresholds=(Threshold("ratio.orders_per_s", at_least=10),))

Claims and scenarios are found by the entry point groups `dougong.claims` and `dougong.rushes`, so that a project proves
its own beside ours. This room knows no system: starting one, talking to it and checking its books is the claim's part.
"""

from dougong.evidence.apart import Generator, generator
from dougong.evidence.claim import Claim, Experiment, Figures, NotShown, Ratio, Setting, Threshold
from dougong.evidence.discover import claim_names, find_claim, find_rush, rush_names
from dougong.evidence.engines import Engine, MariaDB, PostgreSQL, Redis, Server, free_port
from dougong.evidence.etcd_cluster import EtcdCluster
from dougong.evidence.experiment import Progress, prove
from dougong.evidence.kafka_broker import KafkaBroker
from dougong.evidence.latency import Latencies, Quantiles
from dougong.evidence.load import Journal, Load, LoadReport, Target, leaves_open, run_closed, run_open
from dougong.evidence.machine import Machine, commit_of, describe_machine, tree_of
from dougong.evidence.readme import check_place, claims_table, write_claims
from dougong.evidence.report import Judgement, Report
from dougong.evidence.scenario import Discrepancy, OpenScenario, RushOptions, RushResult, Scenario, rush
from dougong.evidence.schedule import Zipf, fixed, poisson
from dougong.evidence.statistics import Summary, median, summarize
from dougong.evidence.swarm import (
    Connected,
    Counted,
    Crew,
    Swarm,
    SwarmOptions,
    Timed,
    quantiles_of,
    swarm_of,
)
from dougong.evidence.wire import HttpLoad

__all__ = [
    "Claim",
    "Connected",
    "Counted",
    "Crew",
    "Discrepancy",
    "Engine",
    "EtcdCluster",
    "Experiment",
    "Figures",
    "Generator",
    "HttpLoad",
    "Journal",
    "Judgement",
    "KafkaBroker",
    "Latencies",
    "Load",
    "LoadReport",
    "Machine",
    "MariaDB",
    "NotShown",
    "OpenScenario",
    "PostgreSQL",
    "Progress",
    "Quantiles",
    "Ratio",
    "Redis",
    "Report",
    "RushOptions",
    "RushResult",
    "Scenario",
    "Server",
    "Setting",
    "Summary",
    "Swarm",
    "SwarmOptions",
    "Target",
    "Threshold",
    "Timed",
    "Zipf",
    "check_place",
    "claim_names",
    "claims_table",
    "commit_of",
    "describe_machine",
    "find_claim",
    "find_rush",
    "fixed",
    "free_port",
    "generator",
    "leaves_open",
    "median",
    "poisson",
    "prove",
    "quantiles_of",
    "run_closed",
    "run_open",
    "rush",
    "rush_names",
    "summarize",
    "swarm_of",
    "tree_of",
    "write_claims",
]
