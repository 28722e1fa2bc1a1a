"""Whoever puts a job hears at once what no worker could take."""

from __future__ import annotations

import pytest
from tests.jobs.queues import new

from dougong.errors import Invalid
from dougong.jobs import NewJob
from dougong.jobs.sql.checking import check_jobs


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (new(queue="no spaces"), "bad_queue_name"),
        (new(queue="x" * 101), "bad_queue_name"),
        (new(job=""), "bad_job_name"),
        (new(payload=b"x" * (64 * 1024 + 1)), "payload_too_large"),
        (new(priority=10), "bad_priority"),
        (new(priority=-1), "bad_priority"),
        (new(due_us=1 << 60), "bad_due"),
        (new(key=""), "bad_mark"),
        (new(unique="x" * 201), "bad_mark"),
        (new(order="space at the end "), "bad_mark"),
        (new(key="\ud800"), "bad_mark"),
        (new(trace="\0"), "bad_trace"),
        (new(rate=0.0), "bad_rate"),
        (new(index=3, total=3), "bad_shard"),
        (new(group=7), "group_given"),
        (new(then=(new(priority=77),)), "bad_priority"),
        (new(then=(new(then=(new(),)),)), "nested_chain"),
    ],
)
def test_what_no_worker_could_take_is_refused(bad: NewJob, code: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_jobs([new(), bad])
    assert refused.value.code == code
