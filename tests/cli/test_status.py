"""The status page: who may see it, what it tells, and how it looks in a real browser."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from playwright.async_api import Page, async_playwright, expect
from tests.app.conftest import FRONT, GREETER, PATIENCE_S, Tried, alive, running, trying

from dougong.app import ensure_secrets
from dougong.cli.status import StatusPage
from dougong.errors import Unavailable
from dougong.evidence.engines import free_port
from dougong.http import HttpServer
from dougong.registry import Listing, open_registry

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@asynccontextmanager
async def idle(tmp_path: Path) -> AsyncGenerator[StatusPage]:
    """The page of a system of which nothing runs."""
    supervisor = trying(tmp_path, GREETER).supervisor
    ensure_secrets(supervisor.data / "keys")
    supervisor.registry = await open_registry("memory://")
    try:
        yield StatusPage(supervisor)
    finally:
        await supervisor.registry.close()


async def ask(
    page: StatusPage, method: str = "GET", path: str = "/", host: str | None = "127.0.0.1:8600"
) -> tuple[int, dict[str, str], bytes]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    headers = [(b"host", host.encode())] if host is not None else []
    await page({"type": "http", "method": method, "path": path, "headers": headers}, receive, send)
    start, body = sent
    return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}, body["body"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8600", "localhost:1", "LOCALHOST", "[::1]", "[::1]:8600"])
async def test_it_answers_to_the_machine_itself(tmp_path: Path, host: str) -> None:
    async with idle(tmp_path) as page:
        assert (await ask(page, host=host))[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "evil.example:8600",
        "127.0.0.1.evil.example",
        "localhost:8600.evil.example",
        "127.0.0.2",
    ],
)
async def test_a_page_elsewhere_cannot_read_it_under_its_own_name(tmp_path: Path, host: str | None) -> None:
    async with idle(tmp_path) as page:
        for path in ("/", "/api/status"):
            status, _, body = await ask(page, path=path, host=host)
            assert status == 403
            assert b"127.0.0.1" in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_it_only_shows(tmp_path: Path, method: str) -> None:
    async with idle(tmp_path) as page:
        status, headers, _ = await ask(page, method)
        assert (status, headers["allow"]) == (405, "GET, HEAD")


async def test_everything_is_fresh_and_may_load_nothing_from_elsewhere(tmp_path: Path) -> None:
    async with idle(tmp_path) as page:
        assert (await ask(page, path="/favicon.ico"))[0] == 404
        for path, kind in (("/", "text/html; charset=utf-8"), ("/api/status", "application/json")):
            status, headers, body = await ask(page, path=path)
            assert (status, headers["content-type"], int(headers["content-length"])) == (200, kind, len(body))
            assert headers["cache-control"] == "no-store"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["content-security-policy"].startswith("default-src 'none'; ")
            assert (await ask(page, "HEAD", path))[0] == 200


async def test_a_process_that_does_not_run_is_shown_as_such(tmp_path: Path) -> None:
    async with idle(tmp_path) as page:
        _, _, body = await ask(page, path="/api/status")
        (process,) = msgspec.json.decode(body)["processes"]
        assert (process["name"], process["state"], process["pid"], process["rss_bytes"]) == ("greeter", "stopped", 0, 0)


async def test_while_the_registry_is_silent_the_processes_are_shown_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(prefix: str) -> Listing:
        raise Unavailable("no endpoint answered", code="registry_unreachable")

    async with idle(tmp_path) as page:
        monkeypatch.setattr(page._supervisor.registry, "list", silent)
        status, _, body = await ask(page, path="/api/status")
        told = msgspec.json.decode(body)
        assert (status, told["revision"], told["instances"]) == (200, None, [])
        assert [process["name"] for process in told["processes"]] == ["greeter"]


processes = [pytest.mark.processes, pytest.mark.xdist_group("supervisor")]
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")


@asynccontextmanager
async def served(it: Tried) -> AsyncGenerator[str]:
    """The page of a running system; its URL."""
    page = StatusPage(it.supervisor)
    server = HttpServer(page)
    try:
        yield f"http://127.0.0.1:{await server.start()}"
    finally:
        await server.stop(0.0)
        await page.close()


class Browser:
    """A page in a real browser, and what went wrong in it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        page = await chromium.new_page()
        page.set_default_timeout(PATIENCE_S * 1000)
        expect.set_options(timeout=PATIENCE_S * 1000)
        yield Browser(page)
        await chromium.close()


def gated(tmp_path: Path) -> str:
    """A greeter that waits in its start until a gate is open, and a front."""
    return f'{GREETER}[apps.greeter.settings]\ngate = "{tmp_path}/gate"\n{FRONT.format(port=free_port())}'


class TestInABrowser:
    pytestmark: ClassVar = [*processes, in_a_browser]

    async def test_it_says_who_serves_who_died_and_who_is_back(self, tmp_path: Path, browser: Browser) -> None:
        gate, page = tmp_path / "gate", browser.page
        gate.touch()
        async with running(tmp_path, gated(tmp_path)) as it, served(it) as url:
            await page.goto(url)
            await expect(page.locator("#wrong")).to_have_text("All 2 processes serve.")
            rows = page.locator("#processes tbody tr")
            await expect(rows).to_have_count(2)
            await expect(rows.nth(0)).to_contain_text("greeter")
            await expect(rows.nth(0)).to_contain_text("serving")
            link = page.get_by_role("link", name="/docs")
            assert await link.get_attribute("href") == f"http://{it.supervisor.find('front').http}/docs"
            # What an app tells is text, whatever it looks like.
            await expect(page.get_by_role("table", name="Greetings (greeter)")).to_contain_text("<b>Bo</b>")

            gate.unlink()
            greeter = it.supervisor.find("greeter")
            killed = greeter.pid
            os.kill(killed, signal.SIGKILL)
            await expect(page.locator("#wrong")).to_contain_text("greeter is starting")
            await expect(rows.nth(0)).to_contain_text("starting")
            gate.touch()
            await expect(page.locator("#wrong")).to_have_text("All 2 processes serve.")
            await expect(rows.nth(0)).to_contain_text(str(greeter.pid))
            assert greeter.restarts == 1
            assert not alive(killed)
            assert browser.errors == []

    async def test_it_says_when_nobody_answers_and_recovers(self, tmp_path: Path, browser: Browser) -> None:
        page = browser.page
        async with running(tmp_path, GREETER) as it, served(it) as url:
            await page.goto(url)
            await expect(page.locator("#wrong")).to_have_text("All 1 processes serve.")
            await page.route("**/api/status", lambda route: route.abort())
            await expect(page.locator("#wrong")).to_contain_text("No answer")
            await page.unroute("**/api/status")
            await expect(page.locator("#wrong")).to_have_text("All 1 processes serve.")

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [1280, 390])
    async def test_it_is_readable(self, tmp_path: Path, browser: Browser, width: int, scheme: Any) -> None:
        page = browser.page
        async with running(tmp_path, GREETER + FRONT.format(port=free_port())) as it, served(it) as url:
            await page.set_viewport_size({"width": width, "height": 900})
            await page.emulate_media(color_scheme=scheme)
            await page.goto(url)
            await expect(page.locator("#wrong")).to_have_text("All 2 processes serve.")
            assert await page.evaluate("document.documentElement.scrollWidth") <= width  # tables scroll by themselves
            weak = await page.evaluate(CONTRASTS)
            assert weak == []
            assert browser.errors == []


# WCAG's contrast of every text with what is behind it; those under 4.5:1.
CONTRASTS = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const over = (colour, base) => { canvas.fillStyle = base; canvas.fillRect(0, 0, 1, 1); canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1); return canvas.getImageData(0, 0, 1, 1).data; };
  const light = rgb => [0.2126, 0.7152, 0.0722].reduce((sum, share, i) => { const c = rgb[i] / 255;
    return sum + share * (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4); }, 0);
  const weak = [];
  for (const e of document.querySelectorAll('body, body *')) {
    if (!e.innerText || e.children.length || e.tagName === 'SCRIPT' || e.tagName === 'STYLE') continue;
    let back = 'Canvas', opacity = 1;
    for (let p = e; p; p = p.parentElement) { const s = getComputedStyle(p); opacity *= +s.opacity;
      if (back === 'Canvas' && s.backgroundColor !== 'rgba(0, 0, 0, 0)') back = s.backgroundColor; }
    if (back === 'Canvas') back = matchMedia('(prefers-color-scheme: dark)').matches ? '#121212' : '#ffffff';
    canvas.globalAlpha = 1; const base = over(back, back); canvas.globalAlpha = opacity;
    const solid = `rgb(${base[0]},${base[1]},${base[2]})`; canvas.globalAlpha = 1; canvas.fillStyle = solid;
    canvas.fillRect(0, 0, 1, 1); canvas.globalAlpha = opacity; canvas.fillStyle = getComputedStyle(e).color;
    canvas.fillRect(0, 0, 1, 1); const text = canvas.getImageData(0, 0, 1, 1).data; canvas.globalAlpha = 1;
    const [high, low] = [light(text), light(base)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) weak.push(`${e.innerText}: ${ratio.toFixed(2)}`);
  }
  return [...new Set(weak)];
}"""
