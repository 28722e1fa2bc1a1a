"""What may happen to a session, as pure rules: everything that decides about refresh tokens stands here.

login ──▶ live ──refresh──▶ live (next token; the one before is remembered)
           │ ├─ the one before again, within grace ──▶ live: the same next token is told once more
           │ └─ any older one, or the one before later ──▶ ended (somebody has a copy)
           ├─ logout, password change, operator, too many ──▶ ended
           └─ idle or absolute lifetime over ──▶ expired
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from dougong.dao import Entity
from dougong.errors import Unauthenticated
from dougong.shard import BUCKETS
from shop.users.auth_jwt._tokens import (
    FAMILY_BYTES,
    SALT_BYTES,
    SECRET_BYTES,
    RefreshToken,
    hashed,
    invalid_token,
    matches,
)

__all__ = ["Refused", "Rotated", "Session", "SessionRules", "ended", "open_session", "rotate"]

Hash = Annotated[str, Meta(max_length=64)]
Entropy = Callable[[int], bytes]
_SECOND_US = 1_000_000


class Session(Entity, table="sessions", version="version"):
    """One login on one device. `id % 128` is the bucket of its user."""

    id: int
    user_id: int
    family_hash: Hash
    """Of what all its refresh tokens have in common."""
    token_hash: Hash
    """Of the refresh token that is good now."""
    past_hash: Hash
    """Of the one before; empty as long as there is none."""
    salt: Hash
    """With which the good one was made of the one before, in hexadecimal."""
    created_us: int
    used_us: int
    """When the good token was made."""
    expires_us: int
    """When it is over by itself; after it ended, when the row may go."""
    access_until_us: int
    """When the last of its access tokens has expired."""
    ended_us: int = 0
    """0 while it lives."""
    ended_by: Annotated[str, Meta(max_length=20)] = ""
    version: int = 1


class SessionRules(msgspec.Struct, frozen=True, kw_only=True):
    """For how long. In seconds."""

    access_s: int = 900
    grace_s: float = 10.0
    """So long a token that was used may be used again, for clients whose answer was lost."""
    idle_s: int = 7 * 86_400
    absolute_s: int = 30 * 86_400
    per_user_max: int = 20
    kept_s: int = 3600
    """So long an ended session's row outlives its access tokens, for those who look at the feed late."""


class Rotated(msgspec.Struct, frozen=True):
    """The session as it is to be stored, and what its client gets."""

    session: Session
    token: RefreshToken
    access_s: int
    repeated: bool = False
    """The same answer as before, to a client that did not get that one, or to somebody who was quick."""


class Refused(msgspec.Struct, frozen=True):
    """Why the client gets nothing, and the session as it is to be stored, if that changed."""

    error: Unauthenticated
    session: Session | None = None


def open_session(user_id: int, now_us: int, rules: SessionRules, entropy: Entropy) -> Rotated:
    """A new session of a user, with its first token."""
    # 56 random bits are no secret, only unlikely to be there already: the primary key says so if they are.
    number = int.from_bytes(entropy(7), "big") << (BUCKETS.bit_length() - 1) | user_id % BUCKETS
    token = RefreshToken(number, entropy(FAMILY_BYTES), entropy(SECRET_BYTES))
    session = Session(
        id=number,
        user_id=user_id,
        family_hash=hashed(token.family),
        token_hash=hashed(token.secret),
        past_hash="",
        salt="",
        created_us=now_us,
        used_us=now_us,
        expires_us=_end(now_us, now_us, rules),
        access_until_us=0,
    )
    return _with_access(session, token, now_us, rules)


def rotate(
    session: Session | None, token: RefreshToken, now_us: int, rules: SessionRules, entropy: Entropy
) -> Rotated | Refused:
    """What a refresh token is answered.

    Only who shows the family learns anything, or changes anything: a stranger who knows a session's id and guesses the
    rest cannot end it.
    """
    if session is None or not matches(token.family, session.family_hash):
        return Refused(invalid_token())
    if session.ended_us:
        return Refused(Unauthenticated("the session has ended: log in", code="session_ended"))
    if now_us >= session.expires_us:
        return Refused(Unauthenticated("the session has expired: log in", code="session_expired"))
    if matches(token.secret, session.token_hash):
        salt = entropy(SALT_BYTES)
        following = token.next(salt)
        used = msgspec.structs.replace(
            session,
            token_hash=hashed(following.secret),
            past_hash=session.token_hash,
            salt=salt.hex(),
            used_us=now_us,
            expires_us=_end(session.created_us, now_us, rules),
        )
        return _with_access(used, following, now_us, rules)
    if (
        session.past_hash
        and matches(token.secret, session.past_hash)
        and now_us - session.used_us <= rules.grace_s * _SECOND_US
    ):
        again = _with_access(session, token.next(bytes.fromhex(session.salt)), now_us, rules)
        return msgspec.structs.replace(again, repeated=True)
    return Refused(
        Unauthenticated(
            "this refresh token was used before, so somebody has a copy: the session has been ended, log in",
            code="refresh_token_reused",
        ),
        ended(session, now_us, rules, "reuse"),
    )


def ended(session: Session, now_us: int, rules: SessionRules, by: str) -> Session:
    """The session, over from now on; the first reason stays."""
    if session.ended_us:
        return session
    gone_us = max(now_us, session.access_until_us) + rules.kept_s * _SECOND_US
    return msgspec.structs.replace(session, ended_us=now_us, ended_by=by, expires_us=gone_us)


def _with_access(session: Session, token: RefreshToken, now_us: int, rules: SessionRules) -> Rotated:
    """An access token comes with it, which does not outlive the session."""
    left_us = session.created_us + rules.absolute_s * _SECOND_US - now_us
    access_s = max(1, min(rules.access_s, left_us // _SECOND_US))
    until_us = max(session.access_until_us, now_us + access_s * _SECOND_US)
    return Rotated(msgspec.structs.replace(session, access_until_us=until_us), token, access_s)


def _end(created_us: int, used_us: int, rules: SessionRules) -> int:
    return min(created_us + rules.absolute_s * _SECOND_US, used_us + rules.idle_s * _SECOND_US)
