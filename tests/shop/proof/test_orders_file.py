from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougong.errors import Invalid
from shop.orders import Line, PlaceOrder
from shop.proof import read_orders


def written(directory: Path, text: str) -> Path:
    path = directory / "orders.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_row_is_an_order(tmp_path: Path) -> None:
    path = written(tmp_path, "user_id,sku,quantity\n7,sku-1,2\n7,sku-2,1\n")
    assert read_orders(path) == [
        PlaceOrder(user_id="7", lines=[Line(sku="sku-1", quantity=2)]),
        PlaceOrder(user_id="7", lines=[Line(sku="sku-2", quantity=1)]),
    ]


def test_rows_of_one_order_and_keys(tmp_path: Path) -> None:
    text = "order,sku,quantity,user_id,idempotency_key\nA,sku-1,2,7,k\nB,sku-1,1,8,\nA,sku-2,1,7,k\n"
    assert read_orders(written(tmp_path, text)) == [
        PlaceOrder(
            user_id="7", lines=[Line(sku="sku-1", quantity=2), Line(sku="sku-2", quantity=1)], idempotency_key="k"
        ),
        PlaceOrder(user_id="8", lines=[Line(sku="sku-1", quantity=1)]),
    ]


def test_a_byte_order_mark_and_other_columns_are_fine(tmp_path: Path) -> None:
    path = written(tmp_path, "\ufeffuser_id,sku,quantity,note\n7,sku-1,2,hello\n")
    assert len(read_orders(path)) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: column 'user_id' is missing"),
        ("user_id,sku\n7,sku-1\n", "line 1: column 'quantity' is missing"),
        ("user_id,sku,quantity\n", "there are no orders in it"),
        ("user_id,sku,quantity\n7,sku-1,2\n7,sku-1,many\n", "line 3, column 'quantity': 'many': Expected `int`"),
        ("user_id,sku,quantity\n7,sku-1,0\n", "line 2, column 'quantity': '0': Expected `int` >= 1"),
        ("user_id,sku,quantity\n7,sku-1,-3\n", "line 2, column 'quantity': '-3'"),
        ("user_id,sku,quantity\n7,sku-1,99999999999999999999\n", "line 2, column 'quantity'"),
        ("user_id,sku,quantity\n7,,1\n", "line 2, column 'sku': ''"),
        ("user_id,sku,quantity\n7,a b,1\n", "line 2, column 'sku': 'a b'"),
        ("user_id,sku,quantity\n7\n", "line 2, column 'sku': None"),
        ("user_id,sku,quantity\nada,sku-1,1\n", "line 2, column 'user_id': 'ada' is not a user's id"),
        (
            "order,user_id,sku,quantity\nA,7,sku-1,1\nA,8,sku-2,1\n",
            "line 3, column 'user_id': '8' differs from '7' in line 2 of the same order",
        ),
        (
            "order,user_id,sku,quantity,idempotency_key\nA,7,sku-1,1,k\nA,7,sku-2,1,l\n",
            "line 3, column 'idempotency_key': 'l' differs from 'k' in line 2",
        ),
        (f"user_id,sku,quantity,idempotency_key\n7,sku-1,1,{'k' * 129}\n", "line 2: .*length <= 128"),
        ("order,user_id,sku,quantity\n" + "A,7,sku-1,1\n" * 101, "line 2: .*length <= 100"),
    ],
)
def test_a_fault_is_named_by_line_and_column(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(Invalid, match=says) as raised:
        read_orders(written(tmp_path, text))
    assert "orders.csv" in raised.value.message


def test_not_a_file_and_not_text(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="No such file"):
        read_orders(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"user_id,sku,quantity\n\xff\xfe,1,2\n")
    with pytest.raises(Invalid, match=r"binary\.csv"):
        read_orders(tmp_path / "binary.csv")


@given(st.text(max_size=200))
def test_any_text_gives_orders_or_a_named_fault(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("csv") / "orders.csv"
    path.write_text("order,user_id,sku,quantity\n" + text, encoding="utf-8", errors="surrogatepass")
    try:
        orders = read_orders(path)
    except Invalid:
        return  # and nothing else
    assert all(1 <= line.quantity <= 10_000 for order in orders for line in order.lines)
