"""Which endpoint a call goes to, and whether at all: policy as pure algorithms.

The one idea: **what decides knows no connection.** A policy sees numbers (calls in flight, failures in a row, what time
it is) and answers; `rpc` and `tcc` count and connect. So every policy runs a million times in a test, from a seed.

    P2C(Random()).pick(endpoints)      # index of the less loaded of two drawn at random, never an ejected one
    Breaker(BreakerPolicy()).admit(now)  # a ticket for a call, or None while its callee is left alone

What it does not do yet: outlier detection, retry budgets, limits. Who is ejected is the caller's decision.
"""

from dougong.breaker import Breaker, BreakerPolicy, BreakerState
from dougong.mesh.p2c import P2C, EndpointLoad

__all__ = ["P2C", "Breaker", "BreakerPolicy", "BreakerState", "EndpointLoad"]
