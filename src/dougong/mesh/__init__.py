"""Which endpoint a call goes to: policy as pure algorithms.

The one idea: **what decides knows no connection.** A policy sees numbers (calls in flight, who is to be avoided) and
answers with an index; `rpc` counts and connects. So every policy runs a million times in a test, from a seed.

    P2C(Random()).pick(endpoints)      # index of the less loaded of two drawn at random, never an ejected one

What it does not do yet: breakers, outlier detection, retry budgets, limits. Who is ejected is the caller's decision.
"""

from dougong.mesh.p2c import P2C, EndpointLoad

__all__ = ["P2C", "EndpointLoad"]
