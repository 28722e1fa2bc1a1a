"""What can be set for users."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

__all__ = ["UsersSettings"]


class UsersSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Money in minor units."""

    currency: str = "EUR"
    welcome_credit_minor: int = 100_000
    """What a new customer's wallet holds."""
    token_ttl_s: int = 3600
    demo_users: int = 10_000
    """Customers an empty database starts with: `user-1@shop.example` and up."""
    demo_credit_minor: int = 1_000_000_000
    sweep_every_s: Annotated[float, Meta(gt=0)] = 3600.0
    """How often what failed registrations left in the index of e-mails is dropped."""
    profiles_max: Annotated[int, Meta(gt=0)] = 50_000
    """Profiles kept in memory."""
    profile_ttl_s: Annotated[float, Meta(gt=0)] = 5.0
    """How old a profile may be that another process has changed; a change through the own process shows at once."""
