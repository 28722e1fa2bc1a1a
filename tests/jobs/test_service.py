"""The contract of jobs over HTTP: who may, what is answered, and what is said about bad input."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.http.desk import Response, ask
from tests.jobs.test_client import JOBS, PATIENCE_S, working

from dougong.errors import Unauthenticated
from dougong.http import HttpFront
from dougong.jobs import Jobs, JobsService, MemoryQueue, State
from dougong.rpc import Caller

CALLERS = {"Bearer operator": Caller("op", ("operator",)), "Bearer customer": Caller("c", ("customer",))}


def authenticate(authorization: str) -> Caller:
    if authorization not in CALLERS:
        raise Unauthenticated("send a token", code="token_missing")
    return CALLERS[authorization]


class Desk:
    """Jobs behind a front."""

    def __init__(self) -> None:
        self.jobs = Jobs(MemoryQueue(), JOBS)
        self._front = HttpFront([(JobsService, JobsService(self.jobs))], authenticator=authenticate)

    async def ask(self, verb: str, path: str, body: Any = None, query: str = "", **headers: str) -> Response:
        token = headers.pop("token", "operator")
        sent = [(name.replace("_", "-"), value) for name, value in headers.items()]
        return await ask(self._front, verb, f"{path}?{query}" if query else path, body, token=token, headers=sent)

    async def told(self, verb: str, path: str, body: Any = None, query: str = "", **headers: str) -> Any:
        """The answer's document."""
        return (await self.ask(verb, path, body, query, **headers)).json

    async def enqueue(self, job: str, body: Any, **headers: str) -> str:
        answer = await self.ask("POST", f"/v1/enqueue/{job}", body, **headers)
        assert answer.status == 200, answer.json
        document: Any = answer.json
        return str(document["id"])


@pytest_asyncio.fixture
async def desk() -> AsyncIterator[Desk]:
    yield Desk()


async def test_a_job_by_name_runs_and_is_looked_at(desk: Desk) -> None:
    async with working(desk.jobs):
        id_ = await desk.enqueue("add", {"a": 2, "b": 3})
        await desk.jobs.wait(int(id_), PATIENCE_S)
    found = await desk.told("GET", f"/v1/jobs/{id_}")
    assert (found["id"], found["state"], found["result"], found["arguments"]) == (id_, "done", "5", '{"a":2,"b":3}')


async def test_headers_say_when_and_how(desk: Desk) -> None:
    headers = {"X_Dougong_Delay_S": "60", "X_Dougong_Priority": "0", "Idempotency_Key": "k"}
    id_ = await desk.enqueue("note", {"text": "a"}, **headers)
    stored = await desk.jobs.show(int(id_))
    assert (stored.priority, stored.key) == (0, "k")
    assert stored.due_us is not None
    assert stored.due_us >= stored.enqueued_us + 59_000_000
    assert (await desk.told("POST", "/v1/enqueue/note", {"text": "a"}, **headers)) == {"id": id_, "new": False}


async def test_nobody_but_operators(desk: Desk) -> None:
    asked = [("POST", "/v1/enqueue/add", {"a": 1}), ("GET", "/v1/jobs", None), ("POST", "/v1/queues/sums/pause", {})]
    for verb, path, body in asked:
        assert (await desk.ask(verb, path, body, token="customer")).status == 403
        assert (await desk.ask(verb, path, body, token="")).status == 401
    assert await desk.jobs.ls() == []


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "field", "source"),
    [
        ("/v1/enqueue/add", {"a": "x"}, 400, "wrong_arguments", "a", "body"),
        ("/v1/enqueue/add", {"a": 1, "z": 1}, 400, "wrong_arguments", "z", "body"),
        ("/v1/enqueue/ad", {"a": 1}, 404, "unknown_job", "job", "path"),
        ("/v1/jobs/cancel", {}, 400, "which_jobs", "where", "body"),
        ("/v1/jobs/cancel", {"where": {}}, 400, "which_jobs", "where", "body"),
        ("/v1/jobs/retry", {"ids": ["x"]}, 400, None, "ids[0]", "body"),
        ("/v1/queues/sum/pause", {}, 404, "unknown_queue", "queue", "path"),
    ],
)
async def test_bad_input_is_a_problem_that_names_what_and_where(
    desk: Desk, path: str, body: object, status: int, code: str | None, field: str, source: str
) -> None:
    answer = await desk.ask("POST", path, body)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    problem: Any = answer.json
    (fault,) = problem["errors"]
    assert (fault["field"], fault["in"]) == (field, source)
    assert code is None or problem["code"] == code


async def test_what_is_declared(desk: Desk) -> None:
    items = (await desk.told("GET", "/v1/declared-jobs"))["items"]
    assert [(item["name"], item["arguments"]) for item in items] == [
        ("add", ["a", "b"]),
        ("fail", ["why"]),
        ("note", ["text"]),
    ]


async def test_pages_and_filters(desk: Desk) -> None:
    ids = [await desk.enqueue("note", {"text": str(i)}) for i in range(5)]
    await desk.enqueue("add", {"a": 1})
    first = await desk.told("GET", "/v1/jobs", query="job=note&limit=3")
    rest = await desk.told("GET", "/v1/jobs", query=f"job=note&limit=3&after={first['next']}")
    assert [job["id"] for job in first["items"] + rest["items"]] == ids[::-1]
    assert rest["next"] == ""
    assert (await desk.told("GET", "/v1/jobs", query="state=done"))["items"] == []


async def test_cancelled_and_run_again_by_id_and_by_filter(desk: Desk) -> None:
    ids = [await desk.enqueue("note", {"text": str(i)}) for i in range(3)]
    changed = await desk.told("POST", "/v1/jobs/cancel", {"ids": [ids[0], "999"]})
    assert changed == {"ids": [ids[0]]}
    assert (await desk.told("POST", "/v1/jobs/cancel", {"where": {"job": "note"}})) == {"ids": ids[1:]}
    assert (await desk.told("POST", "/v1/jobs/retry", {"ids": ids})) == {"ids": ids}
    assert {job.state for job in await desk.jobs.ls()} == {State.WAITING}


async def test_a_queue_is_resized_under_work(desk: Desk) -> None:
    await desk.enqueue("add", {"a": 1})
    resized = await desk.told("PUT", "/v1/queues/sums/concurrency", {"concurrency": 100})
    assert (resized["queue"], resized["concurrency"], resized["waiting"], resized["paused"]) == ("sums", 100, 1, False)
    assert (await desk.told("POST", "/v1/queues/sums/pause", {}))["paused"] is True
    listed = (await desk.told("GET", "/v1/queues"))["items"]
    assert [(one["queue"], one["paused"]) for one in listed] == [("default", False), ("sums", True)]
    assert (await desk.told("POST", "/v1/queues/sums/resume", {}))["paused"] is False
    reset = await desk.told("PUT", "/v1/queues/sums/concurrency", {})
    assert reset["concurrency"] is None
    await asyncio.sleep(0)
