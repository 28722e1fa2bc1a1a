"""Live: what becomes of one's orders, on the screen while it happens.

It follows every order's moves and tells each user his own, over the connections of its gateway; the page that shows
them is `/orders.html`. Nothing here is kept: a screen that was away for too long loads its orders again.
"""

from __future__ import annotations

from importlib.resources import files

from dougong.app import App
from dougong.gateway import FanOut, Gateway, GatewaySettings, browser_client, jwt_authenticate
from dougong.http import File
from dougong.rpc import Caller, JwtAuthenticator
from shop.inventory import Inventory
from shop.live._contract import FindGateway, FoundGateway
from shop.live._push import EVERYBODY, LiveSettings, push_orders
from shop.live._service import Live
from shop.orders import Orders
from shop.users import Users, follow_ended_sessions, learn_ended_sessions

__all__ = ["FindGateway", "FoundGateway", "Live", "LiveSettings", "app"]


def topics(caller: Caller) -> tuple[str, ...]:
    return (f"user:{caller.subject}", EVERYBODY)


def gateway(authenticator: JwtAuthenticator, fan_out: FanOut) -> Gateway:
    return Gateway(
        jwt_authenticate(authenticator, topics=topics),
        may_subscribe=lambda user, topic: topic in {f"user:{user}", EVERYBODY},
        fan_out=fan_out,
        settings=GatewaySettings(),
    )


def _page(name: str, kind: str) -> File:
    return File(f"{kind}; charset=utf-8", (files("shop.live") / "pages" / name).read_bytes())


app = App(
    "live",
    services=[Live],
    front=[Live, Users, Inventory, Orders],
    settings=LiveSettings,
    gateway=gateway,
    files={
        "/orders.html": _page("orders.html", "text/html"),
        "/orders.css": _page("orders.css", "text/css"),
        "/orders.js": _page("orders.js", "text/javascript"),
        "/live.js": File("text/javascript; charset=utf-8", browser_client()),
    },
    prepare=[learn_ended_sessions],
    background=[push_orders, follow_ended_sessions],
)
