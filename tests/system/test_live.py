"""Order states on a customer's screens, in real Chromium: two tabs, and gateways that are killed in between."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator
from uuid import uuid4

import msgspec
import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, Page, WebSocket, async_playwright, expect
from tests.system.conftest import Shop

from shop.users import DEMO_PASSWORD

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_MS = 60_000

pytestmark = [
    pytest.mark.processes,
    pytest.mark.xdist_group("shop"),
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
]


@pytest_asyncio.fixture(loop_scope="session")
async def browser() -> AsyncIterator[BrowserContext]:
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        context = await chromium.new_context(viewport={"width": 1280, "height": 900})
        context.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        yield context
        await chromium.close()


# What every order went through on that screen.
NOTES = """
window.seen = {};
new MutationObserver(() => {
  for (const card of document.querySelectorAll('#orders li')) {
    const states = seen[card.dataset.order] ??= [];
    if (states.at(-1) !== card.dataset.state) states.push(card.dataset.state);
  }
}).observe(document, {subtree: true, childList: true});
"""
WAY = ["confirmed", "picking", "shipped", "delivered"]


class Told:
    """What a page is told, which may be faster than it shows."""

    def __init__(self, page: Page) -> None:
        self.states: dict[str, list[str]] = {}
        self.reloads = 0
        """How often it was to load all anew, because the one who tells had missed something."""
        page.on("websocket", self._opened)

    def _opened(self, socket: WebSocket) -> None:
        socket.on("framereceived", self._hear)

    def _hear(self, frame: str | bytes) -> None:
        said = msgspec.json.decode(frame)
        if said["kind"] == "message" and said["topic"] == "orders":
            self.reloads += 1
        elif said["kind"] == "message":
            self.states.setdefault(said["data"]["order_id"], []).append(said["data"]["state"])


async def newcomer(shop: Shop) -> str:
    """Who has no orders yet: the shop is shared with other tests."""
    email = f"live-{uuid4().hex}@shop.example"
    status, _ = await shop.call("POST", "/v1/users", {"email": email, "password": DEMO_PASSWORD, "name": "Ada"})
    assert status < 300
    return email


async def tab(browser: BrowserContext, shop: Shop, email: str) -> tuple[Page, Told]:
    page = await browser.new_page()
    told = Told(page)
    await page.add_init_script(NOTES)
    await page.goto(f"http://{shop.supervisor.find('live-0').http}/orders.html")
    await page.get_by_label("E-mail").fill(email)
    await page.get_by_label("Password").fill(DEMO_PASSWORD)
    await page.get_by_role("button", name="Log in").click()
    await expect(page.get_by_role("status")).to_have_text("live")
    return page, told


async def order(page: Page) -> None:
    await page.get_by_label("Article").select_option("sku-0001")
    await page.get_by_label("How many").fill("2")
    await page.get_by_role("button", name="Order", exact=True).click()


async def test_no_state_is_lost_when_all_gateways_are_killed(running_shop: Shop, browser: BrowserContext) -> None:
    shop = running_shop
    mine = await newcomer(shop)
    (here, told_here), (there, told_there) = [await tab(browser, shop, mine) for _ in range(2)]
    other, told_other = await tab(browser, shop, await newcomer(shop))
    reloads = max(told_here.reloads, told_there.reloads)
    await order(here)
    for page in (here, there):
        await expect(page.locator("#orders li")).to_have_count(1)
        await expect(page.locator("#orders .state")).to_have_text("delivered")
    number = await here.locator("#orders li").get_attribute("data-order")
    assert number is not None
    for page, told in ((here, told_here), (there, told_there)):
        # Each state is told, and shown in its turn. Those told while an order is loaded are shown as the last of them.
        assert told.states[number] == WAY or told.reloads > reloads
        seen = (await page.evaluate("seen"))[number]
        assert seen == [state for state in WAY if state in seen]

    for page, orders in ((here, 2), (there, 3)):  # placed: a click that the dead process had not heard is no order
        await order(page)
        await expect(page.locator("#orders li")).to_have_count(orders)
    gateways = [process for process in shop.supervisor.processes if process.app == "live"]
    killed = [process.pid for process in gateways]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    await expect(here.get_by_role("status")).not_to_have_text("live")
    for page in (here, there):
        await expect(page.get_by_role("status")).to_have_text("live")
        await expect(page.locator("#orders li")).to_have_count(3)
        await expect(page.locator("#orders li[data-state=delivered]")).to_have_count(3)
    assert not {process.pid for process in gateways} & set(killed)
    await expect(other.locator("#none")).to_be_visible()  # others' orders are nobody's business
    assert told_other.states == {}
    for width in (1280, 390):
        await here.set_viewport_size({"width": width, "height": 900})
        assert await here.evaluate("document.documentElement.scrollWidth") <= width


async def test_what_is_sold_out_cannot_be_ordered(running_shop: Shop, browser: BrowserContext) -> None:
    shop = running_shop
    operator = await shop.token("operator@shop.example")
    product = {"name": "Gone", "price_minor": 100, "restock": 0}
    assert (await shop.call("PUT", "/v1/products/a-first", product, token=operator))[0] == 200
    page, _ = await tab(browser, shop, await newcomer(shop))
    article = page.get_by_label("Article")
    await expect(article.locator("option[value=a-first]")).to_be_disabled()
    await expect(article.locator("option[value=a-first]")).to_have_text("Gone · €1.00 · sold out")
    assert await article.input_value() not in ("", "a-first")
