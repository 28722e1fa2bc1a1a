"""The story `payment`: money from elsewhere and the time it may take race, on the shop's own code, in simulated worlds.

    dougong simulate payment --seeds 10000

Two processes of orders on one database, inventory, users, a warehouse, customers, and a payment provider that is
somebody else's company: all of it the real thing but for the network, the disks, the clocks and the provider's HTTP,
which are the world's.
"""

from shop.proof.payment._story import story

__all__ = ["story"]
