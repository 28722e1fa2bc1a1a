"""The shop's orders, one instance of which can be made to answer 503 from outside."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dougong.app import App
from dougong.contract import batched
from dougong.errors import Error, Unavailable
from shop.orders import Orders, PlacedOrder, PlaceOrder
from shop.orders import app as well

FILE_VARIABLE = "TEST_SICK_FILE"


def is_sick() -> bool:
    """Whether the file names this instance."""
    try:
        return Path(os.environ[FILE_VARIABLE]).read_text() == os.environ["DOUGONG_INSTANCE"]
    except (OSError, KeyError):
        return False


def note(what: str) -> None:
    """Count a batch of this instance's, for the test to see."""
    file = Path(f"{os.environ[FILE_VARIABLE]}.{os.environ['DOUGONG_INSTANCE']}.{what}")
    with file.open("ab") as counted:
        counted.write(b".")


class SickOrders(Orders, package="shop.v1", name="shop.v1.Orders"):
    """Answers 503 while it is sick; nothing is done then."""

    @batched(http="POST /v1/orders", max_batch=1000, timeout_s=5.0, on_behalf=("partner",))
    async def place(  # pyright: ignore[reportIncompatibleVariableOverride]  # a descriptor that knows its class
        self, requests: Sequence[PlaceOrder]
    ) -> Sequence[PlacedOrder | Error]:
        """As `Orders.place`."""
        if is_sick():
            note("refused")
            return [Unavailable("out of order", code="sick")] * len(requests)
        note("served")
        return await Orders.place.function(self, requests)


app = App(
    "orders",
    services=[SickOrders, *well.services[1:]],
    migrations=well.migrations,
    settings=well.settings,
    provide=well.provide,
    background=well.background,
    glance=well.glance,
)
