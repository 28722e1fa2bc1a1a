"""The front over plain ASGI: who may call, what errors look like, limits, health, CORS."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence

import pytest
from tests.http.desk import Desk, Nothing, ask, front

from dougong.clock import ManualClock
from dougong.contract import Message, Service, rpc
from dougong.errors import Unavailable
from dougong.http import Cors, HttpFront
from dougong.telemetry import recorder, render_prometheus

LINES = [{"sku": "a", "quantity": 2}]


@pytest.fixture(autouse=True)
def _no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody here is still sending when a body is refused."""
    monkeypatch.setattr("dougong.http.body.DRAIN_S", 0.001)


async def test_without_a_token() -> None:
    response = await ask(front(), "POST", "/v1/orders", {"lines": LINES}, token="")
    assert (response.status, response.json["code"]) == (401, "token_missing")
    assert response.headers["www-authenticate"] == 'Bearer realm="dougong"'


async def test_with_a_bad_token() -> None:
    response = await ask(front(), "POST", "/v1/orders", {"lines": LINES}, token="mallory")
    assert response.status == 401
    assert 'error="invalid_token"' in response.headers["www-authenticate"]


async def test_strangers_do_not_get_their_body_read() -> None:
    response = await ask(front(), "POST", "/v1/orders", b"{", token="mallory")
    assert response.status == 401


async def test_a_stale_token_does_not_matter_where_none_is_needed() -> None:
    assert (await ask(front(), "GET", "/v1/things/mine", token="mallory")).json == {"id": "nobody"}


async def test_without_an_authenticator_only_public_methods_are_reached() -> None:
    app = HttpFront([(Desk, Desk())])
    assert (await ask(app, "GET", "/v1/things/a")).status == 200
    assert (await ask(app, "POST", "/v1/orders", {"lines": LINES})).status == 401


async def test_roles() -> None:
    refused = await ask(front(), "DELETE", "/v1/all")
    assert (refused.status, refused.json["code"]) == (403, "role_missing")
    assert (await ask(front(), "DELETE", "/v1/all", token="clerk")).status == 200


@pytest.mark.parametrize("token", ["", "alice", "system"])
async def test_internal_methods_do_not_exist_over_http(token: str) -> None:
    assert (await ask(front(), "POST", "/v1/internal", {}, token=token)).status == 404


async def test_unknown_path() -> None:
    response = await ask(front(), "GET", "/nowhere")
    assert (response.status, response.json["code"]) == (404, "no_such_path")


@pytest.mark.parametrize(
    ("verb", "path", "allow"),
    [
        ("DELETE", "/v1/orders", "OPTIONS, POST"),
        ("POST", "/v1/things", "GET, HEAD, OPTIONS"),
        ("BREW", "/v1/things/1", "GET, HEAD, OPTIONS, PUT"),
        ("POST", "/healthz", "GET, HEAD, OPTIONS"),
    ],
)
async def test_wrong_verb_names_the_right_ones(verb: str, path: str, allow: str) -> None:
    response = await ask(front(), verb, path)
    assert (response.status, response.json["code"], response.headers["allow"]) == (405, "method_not_allowed", allow)


async def test_options_and_head() -> None:
    options = await ask(front(), "OPTIONS", "/v1/things/1")
    assert (options.status, options.headers["allow"], options.body) == (204, "GET, HEAD, OPTIONS, PUT", b"")
    assert "content-length" not in options.headers
    get, head = [await ask(front(), verb, "/v1/things/1") for verb in ("GET", "HEAD")]
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", get.headers["content-length"])
    assert (await ask(front(), "HEAD", "/v1/count")).status == 405


async def test_every_response_carries_a_request_id_and_security_headers() -> None:
    for target in ("/v1/things/1", "/nowhere", "/healthz", "/docs"):
        response = await ask(front(), "GET", target)
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert response.headers["x-request-id"]
        names = [name for name, _ in response.pairs]
        assert len(names) == len(set(names))
    assert (await ask(front(), "GET", "/v1/things/1")).headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a-b_c.9", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("", False),
        ("two words", False),
        ("a\nb", False),
        (b"\xff", False),
        ("-x", False),
    ],
)
async def test_a_request_id_is_taken_only_if_it_is_short_and_plain(given: str | bytes, kept: bool) -> None:
    response = await ask(front(), "GET", "/v1/things/1", headers=[("x-request-id", given)])
    assert (response.headers["x-request-id"] == given) is kept
    assert response.headers["x-request-id"].isascii()


async def test_problem_details_are_complete() -> None:
    response = await ask(front(), "POST", "/v1/wait", {"how": "conflict"}, headers=[("x-request-id", "r-1")])
    assert response.status == 409
    problem = response.json
    assert len(str(problem.pop("trace_id"))) == 32
    assert problem == {
        "type": "urn:dougong:error:too_late",
        "title": "The state does not allow it",
        "status": 409,
        "detail": "somebody was faster",
        "code": "too_late",
        "instance": "urn:dougong:request:r-1",
        "request_id": "r-1",
        "fields": {"order": 7},
    }


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [
        ("missing", 404, "order_not_found"),
        ("overloaded", 429, "queue_full"),
        ("unavailable", 503, "gone"),
        ("crash", 500, "internal"),
        ("internal", 500, "db_broken"),
        ("timeout", 500, "internal"),
    ],
)
async def test_errors_of_the_service(how: str, status: int, code: str) -> None:
    response = await ask(front(), "POST", "/v1/wait", {"how": how})
    assert (response.status, response.json["code"]) == (status, code)


async def test_retry_after_is_whole_seconds_rounded_up() -> None:
    overloaded = await ask(front(), "POST", "/v1/wait", {"how": "overloaded"})
    assert (overloaded.headers["retry-after"], overloaded.json["retry_after_s"]) == ("3", 2.5)
    unavailable = await ask(front(), "POST", "/v1/wait", {"how": "unavailable"})
    assert unavailable.headers["retry-after"] == "1"


@pytest.mark.parametrize("how", ["crash", "internal"])
async def test_faults_of_ours_are_told_to_the_log_and_not_to_the_client(
    how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    response = await ask(front(), "POST", "/v1/wait", {"how": how})
    assert b"hunter2" not in response.body
    assert b"secrets" not in response.body
    assert response.headers["x-request-id"] in str(response.json["detail"])
    out, err = capsys.readouterr()
    assert "a request failed" in out + err


async def test_the_clients_deadline_is_kept_and_bounded() -> None:
    desk = Desk()
    response = await ask(front(desk), "POST", "/v1/wait", {"seconds": 60}, headers=[("x-request-timeout-ms", "20")])
    assert (response.status, response.json["code"]) == (504, "deadline_exceeded")
    assert desk.cancelled == 1
    remaining = await ask(
        front(), "POST", "/v1/wait", {"how": "remaining"}, headers=[("x-request-timeout-ms", "999999")]
    )
    assert 4.0 < float(str(remaining.json["seconds"])) <= 5.0  # the method's own timeout_s


async def test_too_many_at_once_are_told_to_back_off() -> None:
    desk = Desk()
    app = front(desk, max_in_flight=1)
    first = asyncio.create_task(ask(app, "POST", "/v1/wait", {"seconds": 60}))
    await desk.entered.wait()
    second = await ask(app, "GET", "/v1/things/1")
    assert (second.status, second.json["code"], second.headers["retry-after"]) == (429, "too_many_requests", "1")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await ask(app, "GET", "/v1/things/1")).status == 200


async def test_a_body_over_the_limit_by_its_own_word_is_not_read() -> None:
    reads = 0

    async def receive() -> dict[str, object]:
        nonlocal reads
        reads += 1
        return {"type": "http.disconnect"}

    events: list[dict[str, object]] = []

    async def send(event: dict[str, object]) -> None:
        if event["type"] == "http.response.start":
            assert reads == 0
        events.append(event)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/orders",
        "raw_path": b"/v1/orders",
        "query_string": b"",
        "headers": [
            (b"authorization", b"Bearer alice"),
            (b"content-type", b"application/json"),
            (b"content-length", b"101"),
        ],
    }
    await front(max_body_bytes=100)(scope, receive, send)  # type: ignore[arg-type]
    assert events[0]["status"] == 413


@pytest.mark.parametrize(("size", "status"), [(100, 200), (101, 413)])
async def test_a_chunked_body_is_counted(size: int, status: int) -> None:
    body = json.dumps({"lines": LINES}).encode().ljust(size)
    response = await ask(
        front(max_body_bytes=100), "POST", "/v1/orders", chunks=[body[i : i + 7] for i in range(0, size, 7)]
    )
    assert response.status == status
    if status == 413:
        assert (response.json["code"], response.headers["connection"]) == ("body_too_large", "close")


@pytest.mark.parametrize("length", ["5", None, "100000"])
async def test_a_body_that_does_not_come_has_a_deadline(length: str | None) -> None:
    """Small, of unknown length, large: each has its own way to the timer."""
    app = front(body_timeout_s=0.02)
    pairs = [(b"authorization", b"Bearer alice"), (b"content-type", b"application/json")]
    pairs.append((b"transfer-encoding", b"chunked") if length is None else (b"content-length", length.encode()))
    events: list[dict[str, object]] = []
    first = True

    async def receive() -> dict[str, object]:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": b"{", "more_body": True}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(event: dict[str, object]) -> None:
        events.append(event)

    scope = {"type": "http", "method": "POST", "path": "/v1/orders", "query_string": b"", "headers": pairs}
    await app(scope, receive, send)  # type: ignore[arg-type]
    assert events[0]["status"] == 408


async def test_a_client_that_leaves_before_its_body_is_complete_gets_no_answer() -> None:
    pairs = [(b"authorization", b"Bearer alice"), (b"content-type", b"application/json"), (b"content-length", b"5")]

    async def receive() -> dict[str, object]:
        return {"type": "http.disconnect"}

    async def send(event: dict[str, object]) -> None:
        raise AssertionError(event)

    scope = {"type": "http", "method": "POST", "path": "/v1/orders", "query_string": b"", "headers": pairs}
    await front()(scope, receive, send)  # type: ignore[arg-type]
    assert 'route="/v1/orders",status="499"' in render_prometheus()


async def test_duplicate_authorization_is_refused() -> None:
    response = await ask(front(), "GET", "/v1/things", headers=[("authorization", "Bearer clerk")])
    assert (response.status, response.json["code"]) == (400, "duplicate_header")


async def test_alive_and_ready() -> None:
    clock = ManualClock()
    broken: list[Exception] = []

    async def database() -> None:
        if broken:
            raise broken[0]

    app = front(checks={"database": database}, clock=clock)
    assert (await ask(app, "GET", "/readyz", token="")).json == {"status": "ready"}
    broken.append(Unavailable("disk full", code="disk_full"))
    assert (await ask(app, "GET", "/readyz")).status == 200  # asked a moment ago
    clock.advance(1.0)
    unready = await ask(app, "GET", "/readyz")
    assert (unready.status, unready.json["code"]) == (503, "not_ready")
    assert unready.json["fields"] == {"check": "database"}
    assert (await ask(app, "GET", "/healthz")).json == {"status": "alive"}
    broken[0] = KeyError("boom")
    clock.advance(1.0)
    assert (await ask(app, "GET", "/readyz")).status == 503
    broken.clear()
    clock.advance(1.0)
    assert (await ask(app, "GET", "/readyz")).status == 200


async def test_draining_says_not_ready_and_still_serves() -> None:
    app = front()
    app.drain()
    assert (await ask(app, "GET", "/readyz")).json["code"] == "draining"
    assert (await ask(app, "GET", "/v1/things/1")).status == 200


async def test_metrics_count_by_route_and_never_by_what_strangers_type() -> None:
    app = front()
    await ask(app, "GET", "/v1/things/abc")
    await ask(app, "GET", "/nowhere/abc")
    await ask(app, "BREW", "/v1/things/abc")
    response = await ask(app, "GET", "/metrics", token="")
    text = response.body.decode()
    assert 'http_server_request_duration_seconds_count{method="GET",route="/v1/things/{id}",status="200"}' in text
    assert 'route="-",status="404"' in text
    assert 'method="other"' in text
    assert "abc" not in text
    assert "BREW" not in render_prometheus()


async def test_the_callers_trace_goes_on() -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    header = ("traceparent", f"00-{trace}-00f067aa0ba902b7-01")
    await ask(front(), "GET", "/v1/things/1", headers=[header])
    (span,) = recorder().spans(trace)
    assert span.name == "GET /v1/things/{id}"
    assert span.attributes["http.response.status_code"] == 200
    assert not span.failed
    response = await ask(front(), "POST", "/v1/wait", {"how": "crash"}, headers=[header])
    assert response.json["trace_id"] == trace
    assert recorder().spans(trace)[-1].failed
    broken = await ask(front(), "GET", "/nowhere", headers=[("traceparent", "00-zz")])
    assert broken.json["trace_id"] != trace


async def test_cors_only_for_origins_that_were_named() -> None:
    app = front(cors=Cors(("https://shop.example",)))
    good, bad = ("origin", "https://shop.example"), ("origin", "https://evil.example")
    allowed = await ask(app, "GET", "/v1/things/1", headers=[good])
    assert allowed.headers["access-control-allow-origin"] == "https://shop.example"
    assert allowed.headers["vary"] == "origin"
    assert "access-control-allow-origin" not in (await ask(app, "GET", "/v1/things/1", headers=[bad])).headers
    refused = await ask(app, "GET", "/nowhere", headers=[good])
    assert refused.headers["access-control-allow-origin"] == "https://shop.example"  # so that a page can read errors
    preflight = await ask(
        app, "OPTIONS", "/v1/orders", headers=[good, ("access-control-request-method", "POST")], token=""
    )
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-methods"] == "OPTIONS, POST"
    assert "idempotency-key" in preflight.headers["access-control-allow-headers"]
    stranger = await ask(app, "OPTIONS", "/v1/orders", headers=[bad, ("access-control-request-method", "POST")])
    assert "access-control-allow-methods" not in stranger.headers
    assert "access-control-allow-origin" not in (await ask(front(), "GET", "/v1/things/1", headers=[good])).headers


class Clash(Service, package="test.v1"):
    @rpc(http="GET /v1/things/{id}", public=True)
    async def get(self, request: ById2) -> Nothing:
        raise NotImplementedError


class Squatter(Service, package="test.v1"):
    @rpc(http="GET /healthz", public=True)
    async def get(self, request: Nothing) -> Nothing:
        raise NotImplementedError


class ById2(Message):
    id: str


@pytest.mark.parametrize(
    ("services", "message"),
    [
        ([Desk, Clash], r"/test\.v1\.Clash/Get and /test\.v1\.Desk/Get both want 'GET /v1/things/\{id\}'"),
        ([Squatter], "takes '/healthz'"),
    ],
)
def test_two_claims_to_one_path_are_refused(services: Sequence[type[Service]], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        HttpFront([(service, service()) for service in services])


async def test_lifespan_is_answered() -> None:
    inbox = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[object] = []

    async def receive() -> dict[str, object]:
        return inbox.pop(0)  # type: ignore[return-value]

    async def send(event: dict[str, object]) -> None:
        sent.append(event["type"])

    await front()({"type": "lifespan"}, receive, send)  # type: ignore[arg-type]
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


class Lines:
    """A logger that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, object]]] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda event, **values: self.lines.append((level, event, values))


async def test_a_few_lines_a_second_for_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    log, clock = Lines(), ManualClock()
    monkeypatch.setattr("dougong.http.account._log", log)
    app = front(clock=clock)
    for _ in range(200):
        await ask(app, "GET", "/v1/things/1")
        await ask(app, "GET", "/nowhere")
        await ask(app, "POST", "/v1/wait", {"how": "crash"})
    kinds = [(level, event, values.get("status")) for level, event, values in log.lines]
    assert kinds.count(("info", "request", 200)) == 20
    assert kinds.count(("info", "request", 404)) == 50
    assert kinds.count(("warning", "request", 500)) == 50
    assert kinds.count(("error", "a request failed", None)) == 20
    clock.advance(1.0)
    await ask(app, "GET", "/v1/things/1")
    assert log.lines[-1][2]["left_out"] == 180
    refused = next(values for _, _, values in log.lines if values.get("status") == 404)
    assert (refused["code"], refused["route"]) == ("no_such_path", "-")
