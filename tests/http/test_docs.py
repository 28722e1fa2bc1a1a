"""The documentation works without a network, and its policy lets nothing else in."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from tests.http.desk import Desk, ask, front

import dougong.http
from dougong.http.docs import DocsPages

VENDORED = Path(dougong.http.__file__).parent / "swagger"


class References(HTMLParser):
    """What a page loads, and scripts it carries."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.inline: list[str] = []
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [link for name in ("src", "href") if (link := values.get(name))]
        self._in_script = tag == "script"
        assert not any(name.startswith("on") for name in values)

    def handle_data(self, data: str) -> None:
        if self._in_script and data.strip():
            self.inline.append(data)


async def test_everything_the_page_loads_is_here() -> None:
    app = front(title='A "shop" <b>')
    page = await ask(app, "GET", "/docs", token="")
    assert page.headers["content-type"].startswith("text/html")
    found = References()
    found.feed(page.body.decode())
    assert len(found.links) >= 4
    assert found.inline == []
    for link in found.links:
        assert "//" not in link, "a page that works offline loads nothing from elsewhere"
        asset = await ask(app, "GET", f"/{link}", token="")
        assert asset.status == 200, link
        assert asset.body, link


async def test_the_policy_allows_own_scripts_only() -> None:
    policy = (await ask(front(), "GET", "/docs")).headers["content-security-policy"]
    directives = dict(part.strip().partition(" ")[::2] for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == "'self'"
    assert directives["connect-src"] == "'self'"
    assert directives["frame-ancestors"] == "'none'"


async def test_the_start_script_asks_for_the_contract_here() -> None:
    start = (await ask(front(), "GET", "/docs/start.js", token="")).body.decode()
    (url,) = re.findall(r'url: "([^"]+)"', start)
    assert (await ask(front(), "GET", f"/{url}", token="")).status == 200
    assert "validatorUrl: null" in start


async def test_what_is_vendored_is_what_is_served_with_its_licences() -> None:
    pages = DocsPages([Desk], title="t", version="1", servers=())
    served = {path.removeprefix("/docs/") for path in pages.paths} - {"/openapi.json", "/docs", "start.js"}
    assert served == {path.name for path in VENDORED.iterdir()}
    assert "Apache License" in (VENDORED / "LICENSE").read_text()
    assert "SmartBear" in (VENDORED / "NOTICE").read_text()
    bundle = (VENDORED / "swagger-ui-bundle.js").read_text()
    assert "swagger-ui-bundle.js.LICENSE.txt" in bundle[:200]


async def test_the_stylesheet_loads_nothing_from_elsewhere() -> None:
    css = (VENDORED / "swagger-ui.css").read_text()
    outside = [url for url in re.findall(r"url\(([^)]*)\)", css) if not url.strip("\"'").startswith("data:")]
    assert outside == []
    assert "@import" not in css


async def test_the_contract_shows_what_http_serves_and_not_what_is_internal() -> None:
    document = (await ask(front(title="Desk", version="7"), "GET", "/openapi.json", token="")).json
    assert document["openapi"] == "3.1.0"
    assert document["info"] == {"title": "Desk", "version": "7"}
    paths = document["paths"]
    assert isinstance(paths, dict)
    assert "/v1/orders" in paths
    assert "/v1/internal" not in paths


async def test_a_browser_that_has_it_gets_304() -> None:
    first = await ask(front(), "GET", "/docs/swagger-ui.css", token="")
    again = await ask(
        front(), "GET", "/docs/swagger-ui.css", token="", headers=[("if-none-match", first.headers["etag"])]
    )
    assert (again.status, again.body) == (304, b"")


async def test_docs_and_metrics_can_be_left_out() -> None:
    app = front(docs=False, metrics=False)
    for path in ("/docs", "/openapi.json", "/metrics"):
        assert (await ask(app, "GET", path)).status == 404
