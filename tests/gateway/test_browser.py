"""The client for pages in real Chromium: against a real gateway, and against the Python client's decisions."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Page, async_playwright
from tests.gateway.test_client import PATIENCE_S, Server, serving

from dougong.gateway import Gap, Told, browser_client
from dougong.gateway.following import Follower
from dougong.gateway.history import Offset
from dougong.http import File, HttpFront, HttpServer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")

FILES = {
    "/": File("text/html; charset=utf-8", b"<!doctype html><title>Live</title>"),
    "/live.js": File("text/javascript; charset=utf-8", browser_client()),
}
# Pauses are short here because chance is small; tokens are `7-0`, `7-1`, … as the door of the tests knows them.
CONNECT = """async (url) => {
  const { Live } = await import('/live.js');
  Object.assign(window, { told: [], states: [], given: 0, refusals: [] });
  window.live = new Live({ url, random: () => 0.05, state: ({name, error}) => states.push(error ? error.code : name),
    token: async (renew) => `7-${window.given += renew ? 1 : 0}` });
  live.subscribe('user:7', { load: () => told.push('load'), message: (data) => told.push(data) });
  live.subscribe('user:8', { refused: (error) => refusals.push(error.code) });
}"""


@asynccontextmanager
async def paged(files: Mapping[str, File] = FILES) -> AsyncGenerator[Page]:
    http = HttpServer(HttpFront([], files=files))
    port = await http.start()
    try:
        async with async_playwright() as playwright:
            chromium = await playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
            )
            page = await chromium.new_page(bypass_csp=True)  # waiting for a condition is an eval
            page.set_default_timeout(PATIENCE_S * 1000)
            await page.goto(f"http://127.0.0.1:{port}/")
            yield page
            await chromium.close()
    finally:
        await http.stop(0.0)


async def connected(page: Page, server: Server) -> None:
    await page.evaluate(CONNECT, server.url)
    await page.wait_for_function("told.includes('load') && refusals.length")


async def test_it_does_what_the_python_client_does() -> None:
    async with serving() as server, paged() as page:
        await connected(page, server)
        assert await page.evaluate("refusals") == ["topic_forbidden"]
        assert await page.evaluate("live.call('echo', [1])") == ["7", [1]]
        code = "live.call('nothing').catch(error => error.code)"
        assert await page.evaluate(code) == "no_method"

        await server.publish([1])
        await page.wait_for_function("told.length === 2")
        await page.evaluate("() => { window.pending = live.call('never').catch(error => error.code); }")
        await server.kill()
        assert await page.evaluate("pending") == "connection_lost"
        await server.publish([2, 3])
        await server.start()
        await server.publish([4])
        await page.wait_for_function("told.length === 5")
        assert await page.evaluate("told") == ["load", 1, 2, 3, 4]  # each once, and nothing loaded anew

        server.gateway.kick(user="7", reason="enough")
        await page.wait_for_function("states.at(-1) === 'kicked'")
        assert await page.evaluate("live.call('echo').catch(error => error.code)") == "closed"


async def test_what_is_lost_is_loaded_and_a_refused_token_is_renewed_once() -> None:
    async with serving() as server, paged() as page:
        await connected(page, server)
        server.door.spent.add("7-0")
        await server.kill()
        server.fan_out = type(server.fan_out)()
        await server.publish([1])
        await server.start()
        await page.wait_for_function("told.length === 2")
        assert await page.evaluate("[told, given]") == [["load", "load"], 1]
        await server.publish([2])
        await page.wait_for_function("told.length === 3")


async def test_faults_of_the_page_are_its_own() -> None:
    """A handler that throws misses nothing that follows, and an address that is none is said."""
    async with serving() as server, paged() as page:
        await page.evaluate(CONNECT.replace("told.push('load')", "{ told.push('load'); throw Error(); }"), server.url)
        await page.wait_for_function("told.length === 1 && live.open")
        await server.publish([1])
        await page.wait_for_function("told.length === 2")
        await page.evaluate(CONNECT, "http://127.0.0.1:x/")
        await page.wait_for_function("states.at(-1) === 'bad_address'")


async def test_both_clients_take_the_same_of_whatever_comes() -> None:
    """Scripts of everything that may come, well ordered or not, through both."""
    chance = random.Random(7)
    scripts = [[_event(chance) for _ in range(30)] for _ in range(300)]
    async with paged() as page:
        theirs = await page.evaluate(
            """async (scripts) => {
              const { Follower } = await import('/live.js');
              return scripts.map((script) => {
                const got = [];
                const follower = new Follower({ load: () => got.push('load'), message: (data) => got.push(data) });
                for (const [what, epoch, number, complete] of script) {
                  if (what === 'ask') follower.ask();
                  else if (what === 'answered') follower.answered([epoch, number], complete);
                  else follower.message(number, [epoch, number]);
                }
                return got;
              });
            }""",
            scripts,
        )
    assert theirs == [_ours(script) for script in scripts]
    assert any(len(got) > 10 for got in theirs)


Event = tuple[str, str, int, bool]


def _event(chance: random.Random) -> Event:
    what = chance.choice(["ask", "answered", "message", "message", "message", "message"])
    return what, chance.choice("aaaab"), chance.randrange(12), chance.random() < 0.8


def _ours(script: list[Event]) -> list[object]:
    follower, got = Follower("t", queue_max=10_000), list[object]()
    for what, epoch, number, complete in script:
        if what == "ask":
            follower.ask()
        elif what == "answered":
            begins = follower.last is None and complete
            follower.answered(Offset(epoch, number), complete=complete)
            if begins:
                got.append("load")  # a page is told to load at the beginning as well
        else:
            follower.message(Told("t", json.dumps(number).encode(), Offset(epoch, number)))
        while follower.queue:
            one = follower.queue.popleft()
            got.append("load" if isinstance(one, Gap) else json.loads(one.data))
    return got
