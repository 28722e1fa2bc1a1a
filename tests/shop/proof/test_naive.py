"""The baseline makes the checks that ours makes; a baseline that skipped them would prove nothing."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from fastapi import HTTPException
from sqlalchemy.orm import Session
from tests.system.conftest import free_port

from dougong.evidence import RushOptions, rush
from shop.proof import OrderRush
from shop.proof._rush import DEMO_USERS
from shop.proof.naive import PRODUCTS, USERS, LineIn, OrderIn, Product, Wallet, fill, open_database, place


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    engine = open_database(str(tmp_path / "naive.db"))
    fill(engine)
    with Session(engine, expire_on_commit=False) as opened:
        yield opened
    engine.dispose()


def wanted(sku: str = "sku-0001", quantity: int = 2, user_id: int = 1) -> OrderIn:
    return OrderIn(user_id=user_id, lines=[LineIn(sku=sku, quantity=quantity)])


def refused(session: Session, order: OrderIn) -> str:
    with pytest.raises(HTTPException) as raised:
        place(session, order, None)
    session.rollback()
    return str(raised.value.detail)


def test_an_order_takes_stock_and_money(session: Session) -> None:
    stock, money = session.get_one(Product, "sku-0001").available, session.get_one(Wallet, 1).available
    placed = place(session, wanted(quantity=3), None)
    session.expire_all()
    assert session.get_one(Product, "sku-0001").available == stock - 3
    assert session.get_one(Wallet, 1).available == money - placed.total_minor
    assert placed.total_minor == 3 * session.get_one(Product, "sku-0001").price_minor


def test_it_refuses_what_ours_refuses(session: Session) -> None:
    assert refused(session, wanted(sku="sku-9999")) == "unknown_sku"
    assert refused(session, wanted(user_id=99_999)) == "unknown_user"
    session.get_one(Product, "sku-0002").available = 1
    session.get_one(Wallet, 2).available = 1
    session.commit()
    assert refused(session, wanted(sku="sku-0002")) == "insufficient_stock"
    assert refused(session, wanted(user_id=2)) == "insufficient_funds"
    assert session.get_one(Product, "sku-0001").available == 1_000_000


def test_a_repeat_under_its_key_changes_nothing(session: Session) -> None:
    first = place(session, wanted(), "k")
    stock = session.get_one(Product, "sku-0001").available
    assert place(session, wanted(), "k") == first
    session.expire_all()
    assert session.get_one(Product, "sku-0001").available == stock


def test_it_is_as_durable_as_ours(tmp_path: Path) -> None:
    engine = open_database(str(tmp_path / "naive.db"))
    with engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("synchronous", "journal_mode")
        }
    engine.dispose()
    assert pragmas == {"synchronous": 2, "journal_mode": "wal"}


def test_it_is_as_large_as_the_shop() -> None:
    assert (PRODUCTS, USERS) == (1000, DEMO_USERS)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@pytest.mark.processes
async def test_the_same_generator_drives_it(tmp_path: Path) -> None:
    database, port = tmp_path / "naive.db", free_port()
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", "shop.proof.naive", str(database), str(port))
    try:
        async with asyncio.timeout(60):
            while child.returncode is None and not await _listens(port):
                await asyncio.sleep(0.05)
        options = RushOptions(
            data="",
            http_url=f"http://127.0.0.1:{port}",
            transport="http",
            schedule="closed",
            connections=4,
            seconds=0.3,
            keys=True,
        )
        result = await rush(OrderRush(), options)
    finally:
        with suppress(ProcessLookupError):
            child.terminate()
        await child.wait()
    with closing(sqlite3.connect(database)) as books:
        (orders,) = books.execute("SELECT count(*) FROM orders WHERE idempotency_key IS NOT NULL").fetchone()
    assert result.report.acknowledged == orders > 0
    assert not result.report.refused
