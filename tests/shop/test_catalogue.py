"""Products from CSV: good files, and every way in which one is wrong, named."""

from __future__ import annotations

from pathlib import Path

import pytest

from dougong.errors import Invalid
from shop.inventory import InventorySettings
from shop.inventory._catalogue import demo_products, read_products


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "products.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_good_file(tmp_path: Path) -> None:
    path = written(tmp_path, '\ufeffsku,name,price_minor,currency,quantity\nlamp,A lamp,1999,USD,5\n\'x,"B, c",1,,0\n')
    with pytest.raises(Invalid, match="line 3"):
        read_products(path)
    lamp, nut = read_products(
        written(tmp_path, 'sku,name,price_minor,currency,quantity\nlamp,A lamp,1999,USD,5\nnut,"Nut, hex",1,,0\n')
    )
    assert (lamp.sku, lamp.name, lamp.price_minor, lamp.currency, lamp.restock) == ("lamp", "A lamp", 1999, "USD", 5)
    assert (nut.name, nut.currency, nut.restock) == ("Nut, hex", "EUR", 0)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("sku,name,quantity\n", "'price_minor' is missing"),
        ("", "missing"),
        ("sku,name,price_minor,quantity\nlamp,A,free,1\n", "line 2.*price_minor"),
        ("sku,name,price_minor,quantity\nlamp,A,-5,1\n", "line 2.*price_minor"),
        ("sku,name,price_minor,quantity\nlamp,A,1,1\na b,A,1,1\n", "line 3.*sku"),
        ("sku,name,price_minor,quantity\nlamp,A,1\n", "line 2"),
        (b"sku,name,price_minor,quantity\nlamp,\xff\xfe,1,1\n", "products.csv"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path: Path, text: str | bytes, match: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(Invalid, match=match) as caught:
        read_products(path)
    assert str(path) in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"nowhere\.csv"):
        read_products(tmp_path / "nowhere.csv")


def test_the_demo_catalogue_is_a_thousand_different_affordable_things() -> None:
    products = demo_products(InventorySettings().demo_products)
    assert len({product.sku for product in products}) == 1000
    assert all(100 <= product.price_minor < 10_000 for product in products)
