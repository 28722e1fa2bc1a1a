"""The page of one's orders in Chromium, its shop played by the test: what belongs to whom."""

from __future__ import annotations

import asyncio

from playwright.async_api import Page, Request, Route
from tests.gateway.test_browser import FILES, paged, pytestmark
from tests.gateway.test_client import serving

import shop.live

__all__ = ["pytestmark"]

ORDER = {
    "order_id": "42", "state": "shipped", "updated_us": 1, "created_us": 1, "lines": [], "total_minor": 100,
    "currency": "EUR",
}  # fmt: skip


async def log_in(page: Page) -> None:
    await page.fill("[name=email]", "a@shop.example")
    await page.fill("[name=password]", "secret")
    await page.click("#login button")


async def test_orders_that_come_after_the_logout_are_not_shown_to_the_next() -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()
    users = iter("78")
    who = ""

    async def answer(route: Route, request: Request) -> None:
        nonlocal who
        told: object = {"items": []}
        match request.url.partition("/v1/")[2].partition("?")[0]:
            case "login":
                who = next(users)
                told = {"token": f"{who}-0", "refresh_token": "x", "user_id": who, "expires_in_s": 900}
            case "live":
                told = {"url": server.url, "port": 0, "path": "/live"}
            case "orders" if who == "7":
                asked.set()
                await go_on.wait()
                told = {"items": [ORDER]}
            case _:
                pass
        await route.fulfill(json=told)

    async with serving() as server, paged(FILES | shop.live.app.files) as page:
        await page.route("**/v1/**", answer)
        await page.goto(page.url + "orders.html")
        await log_in(page)
        await asked.wait()
        await page.click("#logout")
        await page.wait_for_selector("#login:visible")
        await log_in(page)
        go_on.set()
        await page.wait_for_selector("#none:visible")
        assert await page.locator("#orders li").count() == 0
