"""The contract for people: `/openapi.json`, and Swagger UI on `/docs` without a network.

Swagger UI's files are vendored under `swagger/` with their licences, and served with a content security policy that
lets the page load nothing from elsewhere and run no inline script.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import cast

import msgspec

from dougong.contract import Service, describe, openapi
from dougong.http.asgi import COMMON_HEADERS, Headers, Reply

__all__ = ["DOCS_CSP", "DocsPages"]

# Swagger UI sets style attributes and embeds its icons; everything else it needs comes from this origin.
DOCS_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""

# The validator badge would ask a server on the internet.
_START = b"""window.ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  displayRequestDuration: true,
  persistAuthorization: false,
});
"""

_ASSETS = {
    "swagger-ui-bundle.js": b"text/javascript; charset=utf-8",
    "swagger-ui-bundle.js.LICENSE.txt": b"text/plain; charset=utf-8",
    "swagger-ui.css": b"text/css; charset=utf-8",
    "favicon-32x32.png": b"image/png",
    "LICENSE": b"text/plain; charset=utf-8",
    "NOTICE": b"text/plain; charset=utf-8",
}


class DocsPages:
    """`/openapi.json`, `/docs` and what the page loads. Built when first asked for, then kept."""

    def __init__(self, services: Sequence[type[Service]], *, title: str, version: str, servers: Sequence[str]) -> None:
        self._services = services
        self._title = title
        self._version = version
        self._servers = servers
        self._openapi: _File | None = None
        self.paths = ("/openapi.json", "/docs", "/docs/start.js", *(f"/docs/{name}" for name in _ASSETS))

    def get(self, path: str, headers: Headers) -> Reply:
        """The reply for one of `paths`; 304 when the browser has it already."""
        file = self._file(path)
        if headers.get(b"if-none-match") == file.etag:
            return Reply(304, [(b"etag", file.etag), (b"cache-control", b"no-cache")], b"", COMMON_HEADERS)
        return Reply(200, file.headers, file.content, COMMON_HEADERS)

    def _file(self, path: str) -> _File:
        if path == "/openapi.json":
            if self._openapi is None:
                self._openapi = _File(b"application/json", msgspec.json.encode(self._document()))
            return self._openapi
        if path == "/docs":
            return _File(b"text/html; charset=utf-8", _PAGE.format(title=_escaped(self._title)).encode())
        if path == "/docs/start.js":
            return _File(b"text/javascript; charset=utf-8", _START)
        return _asset(path.removeprefix("/docs/"))

    def _document(self) -> dict[str, object]:
        """The contract without what HTTP does not serve."""
        document = openapi(self._services, title=self._title, version=self._version, servers=self._servers)
        paths = cast("dict[str, dict[str, object]]", document["paths"])
        for service in self._services:
            for method in describe(service).methods:
                if method.internal and method.http is not None:
                    operations = paths[method.http.path]
                    del operations[method.http.verb.lower()]
                    if not operations:
                        del paths[method.http.path]
        return document


class _File:
    __slots__ = ("content", "etag", "headers")

    def __init__(self, kind: bytes, content: bytes) -> None:
        self.content = content
        self.etag = b'"%s"' % hashlib.sha256(content).hexdigest()[:16].encode()
        self.headers = [
            (b"content-type", kind),
            (b"etag", self.etag),
            (b"cache-control", b"no-cache"),
            (b"content-security-policy", DOCS_CSP.encode()),
        ]


@cache
def _asset(name: str) -> _File:
    return _File(_ASSETS[name], (files(__package__ or "dougong.http") / "swagger" / name).read_bytes())


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
