"""What can be set for users."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from dougong.config import Secret

__all__ = ["UsersSettings"]


class UsersSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Money in minor units."""

    currency: str = "EUR"
    welcome_credit_minor: int = 100_000
    """What a new customer's wallet holds."""
    token_ttl_s: Annotated[int, Meta(ge=1, le=86_400)] = 900
    """How long an access token is good for: where ended sessions are not heard of, so long they live on."""
    refresh_grace_s: Annotated[float, Meta(ge=0, le=60)] = 10.0
    """So long a refresh token that was used is answered once more, the same, because answers get lost."""
    session_idle_s: Annotated[int, Meta(gt=0)] = 7 * 86_400
    session_max_s: Annotated[int, Meta(gt=0)] = 30 * 86_400
    """A session ends after so long without a refresh, and after so long in any case."""
    sessions_max: Annotated[int, Meta(ge=1, le=500)] = 20
    """Of one user; the one not used for longest makes room."""
    login_failures_per_address: Annotated[int, Meta(gt=0)] = 30
    login_address_every_s: Annotated[float, Meta(gt=0)] = 2.0
    """Failed log-ins from one address (IPv6: /64): so many at once, then one more each so many seconds."""
    login_failures_per_account: Annotated[int, Meta(gt=0)] = 10
    login_account_every_s: Annotated[float, Meta(gt=0)] = 30.0
    """Failed log-ins to one account: of all strangers together, and of each address that its owner has used."""
    logins_remembered_max: Annotated[int, Meta(gt=0)] = 100_000
    """Addresses, accounts, and pairs of both that a process remembers."""
    ended_every_s: Annotated[float, Meta(gt=0)] = 1.0
    """How often the databases are asked for sessions that other processes ended."""
    purge_every_s: Annotated[float, Meta(gt=0)] = 60.0
    """How often rows of sessions that are over are removed."""
    demo_users: int = 10_000
    """Customers an empty database starts with: `user-1@shop.example` and up."""
    demo_credit_minor: int = 1_000_000_000
    sweep_every_s: Annotated[float, Meta(gt=0)] = 3600.0
    """How often what failed registrations left in the index of e-mails is dropped."""
    profiles_max: Annotated[int, Meta(gt=0)] = 50_000
    """Profiles kept in memory."""
    profile_cache_url: Secret = Secret("")
    """Redis that keeps them in the place of memory, for all processes of users: `redis://user:password@host:6379/0`,
    `rediss://` for TLS. Best set in the environment."""
    profile_cache_timeout_s: Annotated[float, Meta(gt=0)] = 0.05
    """How long it is waited for, before the database is asked."""
    profile_ttl_s: Annotated[float, Meta(gt=0)] = 5.0
    """How old a profile may be that another process has changed; a change through the own process shows at once, and
    with Redis one through any, unless that process could not tell Redis of it."""
