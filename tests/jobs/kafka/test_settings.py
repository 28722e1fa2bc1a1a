"""Settings that the client library would only refuse once it runs are refused when they are made."""

from __future__ import annotations

import pytest

from dougong.errors import Invalid
from dougong.jobs.kafka import KafkaQueueSettings


@pytest.mark.parametrize(
    "wrong",
    [
        {"partitions": 0},
        {"held_max": 0},
        {"session_s": 0.0},
        {"session_s": 300.5},
        {"put_s": 0.0},
        {"commit_every_s": -1.0},
        {"prefix": ""},
        {"prefix": "x" * 101},
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(wrong: dict[str, float | str]) -> None:
    (name,) = wrong
    with pytest.raises(Invalid, match=name) as refused:
        KafkaQueueSettings(**wrong)  # type: ignore[arg-type]
    assert refused.value.code == "bad_settings"


def test_the_longest_session_is_taken() -> None:
    assert KafkaQueueSettings(session_s=300.0).session_s == 300.0
