"""Balancers: who of several hosts gets a call. Pure: hosts, a key and the time in, a host out.

    balancer = make_balancer(Balancing(), Random())
    balancer.changed(hosts)                     # now, and whenever a host, a weight or an ejection changes
    host = balancer.pick(hosts, None, now)      # raises Unavailable when nobody is left
    host.in_flight += 1                         # the caller counts

Whoever wants calls of the same customer at the same host gives a key (`call_key`) and a ring or a Maglev table. Whoever
wants slow hosts spared tells `observe` how long calls took and takes peak EWMA. They do not retry and eject nobody.
"""

from dougong.mesh.balancers.balancer import Balancer
from dougong.mesh.balancers.hashing import call_key, hash64
from dougong.mesh.balancers.least_request import LeastRequest
from dougong.mesh.balancers.localities import Localities
from dougong.mesh.balancers.maglev import Maglev
from dougong.mesh.balancers.make import make_balancer
from dougong.mesh.balancers.peak_ewma import PeakEwma, observe
from dougong.mesh.balancers.priorities import Shares, shares
from dougong.mesh.balancers.random_choice import RandomChoice
from dougong.mesh.balancers.ring_hash import RingHash
from dougong.mesh.balancers.round_robin import RoundRobin
from dougong.mesh.balancers.subset import subset

__all__ = [
    "Balancer",
    "LeastRequest",
    "Localities",
    "Maglev",
    "PeakEwma",
    "RandomChoice",
    "RingHash",
    "RoundRobin",
    "Shares",
    "call_key",
    "hash64",
    "make_balancer",
    "observe",
    "shares",
    "subset",
]
