"""Sessions in the databases: each change is one unit in the bucket of its user, decided by the rules in `_session`."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

import msgspec

from dougong.clock import Clock
from dougong.dao import DAO, column
from dougong.errors import Conflict, Error, NotFound, Unauthenticated
from dougong.shard import ShardedStore, buckets_of, table_of, write_grouped
from dougong.store import Tx
from dougong.telemetry import counter
from shop.users.auth_jwt._session import (
    Entropy,
    Refused,
    Rotated,
    Session,
    SessionRules,
    ended,
    open_session,
    rotate,
)
from shop.users.auth_jwt._tokens import RefreshToken, invalid_token
from shop.users.user_core import User

__all__ = ["Sessions", "wrong_credentials"]

_LIST_MAX = 1000
_ended = counter("shop_sessions_ended_total", "Sessions that ended before their time.", ("by",))
_purged = counter("shop_sessions_purged_total", "Rows of sessions that were over, removed.")


def wrong_credentials() -> Unauthenticated:
    return Unauthenticated("e-mail or password is wrong", code="bad_credentials")


class Sessions:
    """Opens, refreshes, lists and ends them. `told` hears of each that ended, once that is committed."""

    def __init__(
        self,
        sharded: ShardedStore,
        clock: Clock,
        rules: SessionRules,
        told: Callable[[Session], None],
        *,
        entropy: Entropy = secrets.token_bytes,
    ) -> None:
        self._sharded = sharded
        self._clock = clock
        self._rules = rules
        self._told = told
        self._entropy = entropy
        self._sessions = DAO(Session, sharded)
        self._users = DAO(User, sharded)

    async def start(self) -> None:
        """Say that sessions move with their bucket."""
        await self._sharded.declare(table_of(Session))

    async def open(self, user: User) -> Rotated:
        """A session of a user whose password was right; the one that was idle for longest makes room for it.

        `Unauthenticated` when the password was changed meanwhile: else a thief who was just logging in would stay.
        """

        async def unit(tx: Tx) -> tuple[Rotated, list[Session]]:
            now_us = self._clock.now_us()
            found = await self._users.get(user.id, tx=tx)
            if found is None or found.password_hash != user.password_hash:
                raise wrong_credentials()
            live = await self._live(user.id, now_us, tx)
            live.sort(key=lambda session: session.used_us)
            oldest = live[: max(0, len(live) - self._rules.per_user_max + 1)]
            opened = open_session(user.id, now_us, self._rules, self._entropy)
            await self._sessions.create(opened.session, tx=tx)
            return opened, await self._end(oldest, now_us, "too_many", tx)

        opened, over = await self._sharded.store_of(user.id).write(unit)
        self._tell(over)
        return opened

    async def refresh(self, token: RefreshToken) -> tuple[Rotated, User]:
        """The next token, and whose it is as of now. `Unauthenticated`, by code: see `rotate`."""

        async def unit(tx: Tx) -> tuple[Rotated | Refused, User | None]:
            session = await self._sessions.get(token.session_id, tx=tx)
            outcome = rotate(session, token, self._clock.now_us(), self._rules, self._entropy)
            if outcome.session is not None:
                await self._sessions.update(outcome.session, tx=tx)  # of the version that was read, or `Conflict`
            return outcome, await self._users.get(session.user_id, tx=tx) if session is not None else None

        outcome, user = await self._sharded.store_of(token.session_id).write(unit)
        if isinstance(outcome, Refused):
            if outcome.session is not None:
                self._tell([outcome.session])
            raise outcome.error
        if user is None:
            raise invalid_token()
        return outcome, user

    async def end(self, user_id: int, by: str, *, only: int | None = None) -> int:
        """End a user's sessions, or only that one; how many did."""

        async def unit(tx: Tx) -> list[Session]:
            now_us = self._clock.now_us()
            live = await self._live(user_id, now_us, tx)
            return await self._end([one for one in live if only in (None, one.id)], now_us, by, tx)

        over = await self._sharded.store_of(user_id).write(unit)
        self._tell(over)
        return len(over)

    async def change_password(self, user: User, password_hash: str, *, keep: int | None) -> int:
        """Another password for a user as it was read, and the end of all sessions but `keep`, in one unit."""

        async def unit(tx: Tx) -> list[Session]:
            now_us = self._clock.now_us()
            found = await self._users.get(user.id, tx=tx)
            if found is None:
                raise NotFound(f"there is no user {user.id}", code="unknown_user")
            if found.password_hash != user.password_hash:
                raise Conflict("the password was changed by somebody else just now", code="password_changed")
            await self._users.update(msgspec.structs.replace(found, password_hash=password_hash), tx=tx)
            live = await self._live(user.id, now_us, tx)
            return await self._end([one for one in live if one.id != keep], now_us, "password", tx)

        over = await self._sharded.store_of(user.id).write(unit)
        self._tell(over)
        return len(over)

    async def living(self, user_id: int) -> Sequence[Session]:
        """A user's sessions that live, the one used last first."""
        now_us = self._clock.now_us()
        live = await self._sharded.store_of(user_id).read(lambda tx: self._live(user_id, now_us, tx))
        return sorted(live, key=lambda session: session.used_us, reverse=True)

    async def purge(self, at_once: int) -> int:
        """Remove rows that are over, at most `at_once` in each database; how many it were.

        Raises what a database raised, after the others had their turn.
        """
        now_us = self._clock.now_us()
        removed, failed = 0, list[Error]()
        for name, owned in list(self._sharded.owners.items()):
            try:
                removed += await self._purge(name, list(owned), now_us, at_once)
            except Error as error:
                failed.append(error)
        _purged.inc(removed)
        if failed:
            raise failed[0]
        return removed

    async def _purge(self, name: str, owned: Sequence[int], now_us: int, at_once: int) -> int:
        sql = (
            f"SELECT id FROM sessions WHERE expires_us < ? AND id % 128 IN ({', '.join(map(str, owned))})"  # noqa: S608 (numbers)
            " ORDER BY expires_us LIMIT ?"
        )
        rows = await self._sharded.databases.call(name, lambda store: store.fetch_all(sql, (now_us, at_once)))
        numbers = [number for (number,) in rows if isinstance(number, int)]

        async def unit(tx: Tx, some: list[int]) -> int:
            return await tx.execute_many(
                "DELETE FROM sessions WHERE id = ? AND expires_us < ?", [(number, now_us) for number in some]
            )

        buckets = await buckets_of(self._sharded, numbers)
        return sum((await write_grouped(self._sharded, numbers, buckets, unit)).whole())

    async def _live(self, user_id: int, now_us: int, tx: Tx) -> list[Session]:
        page = await self._sessions.find(
            column(Session.user_id).equals(user_id),
            column(Session.ended_us).equals(0),
            column(Session.expires_us).above(now_us),
            limit=_LIST_MAX,
            tx=tx,
        )
        return list(page.items)

    async def _end(self, some: Sequence[Session], now_us: int, by: str, tx: Tx) -> list[Session]:
        return [await self._sessions.update(ended(one, now_us, self._rules, by), tx=tx) for one in some]

    def _tell(self, over: Sequence[Session]) -> None:
        for session in over:
            _ended.inc(1, session.ended_by)
            self._told(session)
