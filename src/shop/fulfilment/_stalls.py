"""What goes wrong on the way to the customer, as often as the settings say: for tests, proofs and demonstrations.

Which orders it hits follows from their numbers, so that a run can be told afterwards what should have become of each.
"""

from __future__ import annotations

import msgspec

__all__ = ["Stalls"]


class Stalls(msgspec.Struct, frozen=True):
    """Every so many-th order meets a misfortune; 0 for none."""

    picker_dies_every: int = 0
    """Who picks it puts it down half-way and never comes back. The next one does better."""
    courier_silent_every: int = 0
    """It is delivered, and nobody says so until asked."""
    parcel_lost_every: int = 0
    """It never arrives, and the courier has no answer."""

    def picker_dies(self, order_id: int, attempts: int) -> bool:
        """Whether picking it stops half-way, this time."""
        return attempts == 0 and _hit(order_id, self.picker_dies_every, 0)

    def courier_silent(self, order_id: int) -> bool:
        """Whether its delivery is not reported."""
        return _hit(order_id, self.courier_silent_every, 1) and not self.parcel_lost(order_id)

    def parcel_lost(self, order_id: int) -> bool:
        """Whether it never arrives."""
        return _hit(order_id, self.parcel_lost_every, 2)


def _hit(order_id: int, every: int, offset: int) -> bool:
    """Ids of orders are even. The offset keeps one misfortune from always hitting the same orders as another."""
    return every > 0 and ((order_id >> 1) + offset) % every == 0
