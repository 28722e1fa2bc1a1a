"""`dougong tx`: look at transactions and do something about those that are stuck.

Works on the initiators' logs, in the data directory or where they are configured to be. Running coordinators act on
what is written at their next scan, so that it also helps when nothing runs.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import cyclopts
import msgspec
from rich.table import Table

from dougong.app import DATABASE_PREFIX, configured_database_url, database_url, default_system, load_system
from dougong.cli.data import data_directory
from dougong.cli.output import shown
from dougong.cli.parameters import Json
from dougong.cli.showing import check_limit, console, print_document, print_fields, some, when
from dougong.errors import Internal, Invalid, NotFound
from dougong.store import Store, open_store
from dougong.tcc import Operator, Transaction, TransactionState

__all__ = ["tx"]

tx = cyclopts.App(name="tx", help="Look at transactions, and retry or cancel what is stuck.")

_ROWS_MAX = 10_000
_PARKED = (TransactionState.PARKED_CONFIRMING, TransactionState.PARKED_CANCELLING)


@cyclopts.Parameter(name="*")
@dataclass(frozen=True)
class LogsAt:
    """Parameters of all commands about transactions."""

    app: str = ""
    """Only this initiator's."""
    data: Path | None = None
    """Data directory of the system."""


LOGS = LogsAt()
"""All initiators of the default system."""


@tx.command(name="list")
async def list_(
    *,
    state: tuple[str, ...] = (),
    after: int = 0,
    limit: int = 100,
    at: LogsAt = LOGS,
    json: Json = False,
) -> None:
    """Transactions that are under way or parked, or in the states named.

    Parameters
    ----------
    state
        trying, held, confirming, confirmed, cancelling, cancelled, parked_confirming, parked_cancelling; may be
        repeated.
    after
        Only ids above this one: the next page.
    limit
        At most so many of each initiator, 1 to 10,000.
    """
    check_limit(limit, _ROWS_MAX)
    states = [_state(name) for name in state]
    found: list[tuple[str, Transaction]] = []
    async with _logs(at) as logs:
        for name, operator in logs.items():
            found += [(name, t) for t in await operator.list(states=states, after=after, limit=limit)]
    if json:
        print_document([_plain(name, t) for name, t in found])
        return
    table = Table("app", "transaction", "state", "begun", "attempts", "why", box=None)
    for name, t in found:
        table.add_row(
            name,
            str(t.id),
            t.state.name.lower(),
            when(t.created_us),
            str(t.attempts),
            shown(t.failure or t.message),
        )
    console().print(table if found else "nothing under way, nothing parked")


@tx.command
async def show(transaction: int, *, at: LogsAt = LOGS, json: Json = False) -> None:
    """One transaction.

    Parameters
    ----------
    transaction
        Its id.
    """
    async with _logs(at) as logs:
        name, found = await _find(logs, transaction)
    (print_document if json else print_fields)(_plain(name, found))


@tx.command
async def retry(*transactions: int, at: LogsAt = LOGS, json: Json = False) -> int:
    """Put parked transactions back to work; all parked ones if none is named. Exit code 1 when one named is not parked.

    Parameters
    ----------
    transactions
        Their ids.
    """
    retried: list[int] = []
    async with _logs(at) as logs:
        for transaction in transactions:
            await _find(logs, transaction)  # all are looked up before any is touched
        for operator in logs.values():
            wanted = list(transactions)
            if not wanted:
                wanted = [t.id for t in await operator.list(states=_PARKED, limit=_ROWS_MAX)]
            retried += await operator.retry(wanted)
    left = [transaction for transaction in transactions if transaction not in retried]
    if json:
        print_document({"retried": list(map(str, retried)), "not_parked": list(map(str, left))})
    else:
        console().print(f"{len(retried)} put back to work" + (f": {some(retried)}" if retried else ""))
        if left:
            console().print(f"{len(left)} not parked, left alone: {some(left)}")
    return int(bool(left))


@tx.command
async def cancel(transaction: int, *, at: LogsAt = LOGS, json: Json = False) -> None:
    """Have an undecided transaction cancelled at once.

    Parameters
    ----------
    transaction
        Its id.
    """
    async with _logs(at) as logs:
        name, _ = await _find(logs, transaction)
        await logs[name].cancel(transaction)
    if json:
        print_document({"app": name, "cancelling": str(transaction)})
    else:
        console().print(f"{transaction} will be cancelled at the next scan of {name}'s coordinator")


@tx.command
async def dead(*, revive: bool = False, limit: int = 100, at: LogsAt = LOGS, json: Json = False) -> None:
    """Messages about decided transactions that were delivered as often as they may be, and settled nothing.

    Parameters
    ----------
    revive
        Have them all delivered again, with a fresh budget.
    limit
        At most so many of each initiator, 1 to 10,000.
    """
    check_limit(limit, _ROWS_MAX)
    async with _logs(at) as logs:
        found = [(name, letter) for name, operator in logs.items() for letter in await operator.dead_letters(limit)]
        revived = sum([await operator.revive() for operator in logs.values()]) if revive else 0
    if json:
        letters = [{"app": name, **msgspec.structs.asdict(letter), "id": str(letter.id)} for name, letter in found]
        print_document({"dead": letters, "revived": revived})
        return
    table = Table("app", "died", "attempts", "transactions", "why", box=None)
    for name, letter in found:
        table.add_row(
            name,
            when(letter.dead_us),
            str(letter.attempts),
            some(letter.transactions),
            shown(letter.failure),
        )
    console().print(table if found else "no dead letters")
    if revive:
        console().print(f"{revived} will be delivered again")


@asynccontextmanager
async def _logs(at: LogsAt) -> AsyncGenerator[dict[str, Operator]]:
    """App name → operator of its log, for every database in the data directory that has one."""
    directory = data_directory(at.data)
    logs: dict[str, Operator] = {}
    stores = []
    try:
        for name, url in _databases(directory).items():
            if at.app and name != at.app:
                continue
            store = await open_store(url, name=name)
            stores.append(store)
            if await _has_log(store):
                logs[name] = Operator(store)
        if not logs:
            raise NotFound(f"no app {at.app or 'here'} initiates transactions in {directory}", code="no_log")
        yield logs
    finally:
        for store in stores:
            await store.close()


def _databases(directory: Path) -> dict[str, str]:
    """App name → URL: files in the data directory, and what is configured to be elsewhere."""
    files = [path.stem for path in sorted(directory.glob("*.db"))]
    # Those of sharded apps (users.db-0.db) are no identifiers; such an app initiates no transactions.
    found = {name: database_url(directory, name) for name in files if name.isidentifier() and name != "registry"}
    try:
        system = load_system(default_system())
    except NotFound:
        system = None
    names = {*found, *(system.apps if system is not None and system.name == directory.name else ())}
    names |= {name.removeprefix(DATABASE_PREFIX).lower() for name in os.environ if name.startswith(DATABASE_PREFIX)}
    for name in [] if system is None else [name for name, app in system.apps.items() if app.shards is not None]:
        names -= {name, f"{name}_map"}
    for name in sorted(names):
        url = configured_database_url(name, system)
        if url:
            found[name] = url
    return found


async def _has_log(store: Store) -> bool:
    try:
        await store.fetch_one("SELECT id FROM dougong_transactions WHERE id = 0")
    except Internal:  # there is no such table
        return False
    return True


async def _find(logs: dict[str, Operator], transaction: int) -> tuple[str, Transaction]:
    """The log that has it; with several initiators the same number may stand for two."""
    having = [name for name, operator in logs.items() if await operator.state(transaction) is not None]
    if not having:
        raise NotFound(
            f"there is no transaction {transaction} in the logs of {', '.join(logs)}", code="unknown_transaction"
        )
    if len(having) > 1:
        raise Invalid(
            f"transaction {transaction} is in the logs of {' and '.join(having)}; choose with --app", code="ambiguous"
        )
    return having[0], await logs[having[0]].show(transaction)


def _state(name: str) -> TransactionState:
    try:
        return TransactionState[name.upper().replace("-", "_")]
    except KeyError:
        known = ", ".join(state.name.lower() for state in TransactionState)
        raise Invalid(f"there is no state {name!r}; there are: {known}", code="unknown_state") from None


def _plain(app: str, t: Transaction) -> dict[str, object]:
    return {"app": app, **msgspec.structs.asdict(t), "state": t.state.name.lower(), "id": str(t.id)}
