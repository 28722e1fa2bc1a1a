"""`dougong tx` on logs with everything in them that can be stuck."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Command

from dougong.app import database_url
from dougong.store import Queue, Tx, migrations_from, open_store

NOW_US = 1_767_323_045_000_000  # 2026-01-02 03:04:05 UTC
DUE, PARKED = (NOW_US, None), (None, NOW_US)
# Each has an id, a state, when it is due or parked, attempts, code and message of its refusal, its last failure.
ORDERS = [
    (1, 1, DUE, 0, None, None, None),
    (2, 2, DUE, 3, None, None, "shop.v1.StockHolds: unavailable"),
    (3, 3, (None, None), 1, None, None, None),
    (4, 6, PARKED, 21, None, None, "shop.v1.WalletHolds: [red]deadline"),
    (5, 7, PARKED, 21, "insufficient_funds", "not enough", "shop.v1.StockHolds: unavailable"),
    (6, 5, (None, None), 0, "cancelled", "cancelled by an operator", None),
]
RETURNS = [(1, 3, (None, None), 1, None, None, None), (9, 7, PARKED, 21, None, None, "down")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory as a system leaves it: two initiators, and an app that begins nothing."""
    (tmp_path / "registry.db").touch()

    async def write() -> None:
        for app, rows in (("orders", ORDERS), ("returns", RETURNS), ("users", None)):
            store = await open_store(database_url(tmp_path, app), name=app)
            if rows is not None:
                await store.migrate("dougong.tcc.log", migrations_from("dougong.tcc.migrations.log"))

                async def unit(tx: Tx, rows=rows) -> None:  # type: ignore[no-untyped-def]
                    await tx.execute("INSERT INTO dougong_branch_sets VALUES (1, '[\"shop.v1.StockHolds\"]')")
                    for id_, state, (due, parked), attempts, code, message, failure in rows:
                        await tx.execute(
                            "INSERT INTO dougong_transactions VALUES (?, 1, ?, 0, ?, ?, ?, ?, NULL, ?, ?, ?, NULL)",
                            (id_, state, NOW_US, due, parked, attempts, code, message, failure),
                        )

                await store.write(unit)
            await store.close()

    asyncio.run(write())
    return tmp_path


def test_list_shows_what_is_under_way_or_parked(dougong: Command, data: Path) -> None:
    found = dougong("tx", "list", "--data", data, "--json").json
    assert [(t["app"], t["id"], t["state"]) for t in found] == [
        ("orders", "1", "trying"),
        ("orders", "2", "confirming"),
        ("orders", "4", "parked_confirming"),
        ("orders", "5", "parked_cancelling"),
        ("returns", "9", "parked_cancelling"),
    ]
    assert found[2]["participants"] == ["shop.v1.StockHolds"]
    assert found[2]["failure"] == "shop.v1.WalletHolds: [red]deadline"
    text = dougong("tx", "list", "--data", data).out
    for word in ("orders", "parked_confirming", "2026-01-02 03:04:05", "21", "[red]deadline"):
        assert word in text


def test_list_by_state_app_and_page(dougong: Command, data: Path) -> None:
    def ids(*arguments: object) -> list[str]:
        return [f"{t['app']}-{t['id']}" for t in dougong("tx", "list", "--data", data, "--json", *arguments).json]

    assert ids("--state", "confirmed") == ["orders-3", "returns-1"]
    assert ids("--state", "parked-confirming", "--state", "cancelled") == ["orders-4", "orders-6"]
    assert ids("--app", "returns") == ["returns-9"]
    assert ids("--app", "orders", "--limit", "2") == ["orders-1", "orders-2"]
    assert ids("--app", "orders", "--limit", "2", "--after", "2") == ["orders-4", "orders-5"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "--state", "lost"], "there is no state 'lost'; there are: trying, confirming"),
        (["list", "--limit", "0"], "--limit must be 1 to 10,000"),
        (["list", "--limit", "-1"], "--limit must be 1 to 10,000"),
        (["list", "--app", "users"], "no app users initiates transactions"),
        (["show", "77"], "no transaction 77 in the logs of orders, returns"),
        (["show", "1"], "in the logs of orders and returns; choose with --app"),
        (["cancel", "1"], "in the logs of orders and returns; choose with --app"),
        (["cancel", "4"], "4 is parked_confirming: only an undecided or held one is cancelled"),
        (["retry", "4", "77"], "no transaction 77"),
    ],
)
def test_what_cannot_be_done_is_named(dougong: Command, data: Path, arguments: list[str], said: str) -> None:
    ran = dougong("tx", *arguments, "--data", data)
    assert (ran.code, ran.out) == (1, "")
    assert said in ran.err
    assert dougong("tx", "show", "4", "--data", data, "--json").json["state"] == "parked_confirming"  # left alone


def test_show_one(dougong: Command, data: Path) -> None:
    found = dougong("tx", "show", "5", "--data", data, "--json").json
    assert (found["id"], found["state"], found["code"]) == ("5", "parked_cancelling", "insufficient_funds")
    assert dougong("tx", "show", "1", "--app", "orders", "--data", data, "--json").json["state"] == "trying"
    text = dougong("tx", "show", "4", "--data", data).out
    for word in ("parked_confirming", "2026-01-02 03:04:05", "shop.v1.WalletHolds: [red]deadline"):
        assert word in text


def test_retry_one_says_what_was_not_parked(dougong: Command, data: Path) -> None:
    ran = dougong("tx", "retry", "4", "2", "--data", data, "--json")
    assert ran.code == 1
    assert ran.json == {"retried": ["4"], "not_parked": ["2"]}
    after = dougong("tx", "show", "4", "--data", data, "--json").json
    assert (after["state"], after["attempts"], after["due_us"]) == ("confirming", 0, 0)
    text = dougong("tx", "retry", "4", "5", "--data", data).out
    assert text == "1 put back to work: 5\n1 not parked, left alone: 4\n"


def test_retry_all(dougong: Command, data: Path) -> None:
    ran = dougong("tx", "retry", "--data", data, "--json")
    assert (ran.code, ran.json) == (0, {"retried": ["4", "5", "9"], "not_parked": []})
    assert dougong("tx", "show", "9", "--data", data, "--json").json["state"] == "cancelling"
    ran = dougong("tx", "retry", "--data", data)
    assert (ran.code, ran.out) == (0, "0 put back to work\n")


def test_retry_all_of_one_app(dougong: Command, data: Path) -> None:
    assert dougong("tx", "retry", "--app", "returns", "--data", data, "--json").json["retried"] == ["9"]
    assert dougong("tx", "show", "4", "--data", data, "--json").json["state"] == "parked_confirming"


def test_cancel_what_is_undecided(dougong: Command, data: Path) -> None:
    ran = dougong("tx", "cancel", "1", "--app", "orders", "--data", data, "--json")
    assert (ran.code, ran.json) == (0, {"app": "orders", "cancelling": "1"})
    after = dougong("tx", "show", "1", "--app", "orders", "--data", data, "--json").json
    assert (after["due_us"], after["code"]) == (0, "cancelled")
    text = dougong("tx", "cancel", "1", "--app", "orders", "--data", data).out
    assert text == "1 will be cancelled at the next scan of orders's coordinator\n"


def test_nothing_stuck_says_so(dougong: Command, data: Path) -> None:
    assert dougong("tx", "list", "--app", "orders", "--after", "5", "--data", data).out == (
        "nothing under way, nothing parked\n"
    )


def test_logs_may_be_on_servers(
    dougong: Command, data: Path, fresh_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = fresh_url()

    async def write() -> None:
        store = await open_store(url)
        await store.migrate("dougong.tcc.log", migrations_from("dougong.tcc.migrations.log"))

        async def unit(tx: Tx) -> None:
            await tx.execute("INSERT INTO dougong_branch_sets (participants) VALUES ('[\"shop.v1.StockHolds\"]')")
            await tx.execute(
                "INSERT INTO dougong_transactions (id, branches, state, digest, created_us, parked_us, attempts) "
                "VALUES (77, 1, 6, 0, 1, 1, 21)"
            )

        await store.write(unit)
        await store.close()

    asyncio.run(write())
    monkeypatch.setenv("DOUGONG_DATABASE_ORDERS", url)
    found = dougong("tx", "list", "--app", "orders", "--data", data, "--json").json
    assert [(t["app"], t["id"], t["state"]) for t in found] == [("orders", "77", "parked_confirming")]
    assert dougong("tx", "retry", "77", "--app", "orders", "--data", data, "--json").json == {
        "retried": ["77"],
        "not_parked": [],
    }
    found = dougong("tx", "list", "--app", "orders", "--data", data, "--json").json
    assert [t["state"] for t in found] == ["confirming"]


def test_dead_letters_are_shown_and_revived(dougong: Command, data: Path) -> None:
    assert dougong("tx", "dead", "--app", "orders", "--data", data).out == "no dead letters\n"

    async def bury() -> None:
        store = await open_store(database_url(data, "orders"))
        queue = Queue(store, "dougong.tcc")

        async def unit(tx: Tx) -> None:
            await queue.put(tx, "[2,3]", 0)
            (message,) = await queue.due(tx, 1, 10)
            await queue.bury(tx, [(message, "nobody [home]")], NOW_US)

        await store.write(unit)
        await store.close()

    asyncio.run(bury())
    text = dougong("tx", "dead", "--data", data).out
    for word in ("orders", "2026-01-02 03:04:05", "2, 3", "nobody [home]"):
        assert word in text
    shown = dougong("tx", "dead", "--revive", "--data", data, "--json").json
    assert [(letter["app"], letter["transactions"]) for letter in shown["dead"]] == [("orders", [2, 3])]
    assert shown["revived"] == 1
    assert dougong("tx", "dead", "--data", data, "--json").json == {"dead": [], "revived": 0}
    assert "--limit must be" in dougong("tx", "dead", "--limit", "0", "--data", data).err


def test_databases_of_a_sharded_app_are_not_asked(
    dougong: Command, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "users.db-0.db").touch()
    monkeypatch.setenv("DOUGONG_DATABASE_USERS", "mysql://nobody@127.0.0.1:1/users_{number}")
    monkeypatch.setenv("DOUGONG_DATABASE_USERS_MAP", "mysql://nobody@127.0.0.1:1/users_map")
    assert {t["app"] for t in dougong("tx", "list", "--data", data, "--json").json} == {"orders", "returns"}
