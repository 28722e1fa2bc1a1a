"""What comes from outside, changed at random: a few seconds of what `tests/gateway/fuzz.py` does by the million."""

from __future__ import annotations

import pytest
from tests.gateway import fuzz
from tests.gateway.fuzz import SEEDS, Wrong, check, run

from dougong.gateway.frames import FrameLimits, FrameReader, Received, mask

pytestmark = pytest.mark.fuzz


def test_what_is_right_is_read() -> None:
    assert [check(seed) for seed in SEEDS] == [
        "head: upgrade",
        "answer: open",
        "answer: Unavailable",
        "answer: Overloaded",
        "frames: closed 1xxx",
        "texts: open",
        "frames: closed 1xxx",
        "plain: closed 1xxx",
        "head: upgrade",
        "message: Call",
        "message: Subscribe",
        "message: Unsubscribe",
        "told: Answered",
        "told: NotFound",
        "told: Subscribed",
        "told: Tell",
        "told: Lost",
    ]


def test_no_input_makes_a_reader_fail_keep_too_much_or_hear_something_else() -> None:
    outcomes = run(10_000, seed=1)
    assert sum(outcomes.values()) == 10_000
    # Inputs get past the first checks, and break off at all depths.
    assert outcomes["head: upgrade"] > 50
    assert outcomes["frames: open"] > 50
    assert outcomes["texts: open"] > 20
    assert {"head: 400", "frames: 1002", "frames: 1007", "frames: 1009", "message: Call"} <= outcomes.keys()


@pytest.mark.parametrize(
    ("data", "outcome"),
    [
        (b"AHTTP/1.1 503 Busy\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nbusy", "answer: Unavailable"),
        (SEEDS[0].replace(b"dougong", b"dougong\xaf;"), "head: 400"),
    ],
)
def test_what_once_made_a_reader_fail(data: bytes, outcome: str) -> None:
    assert check(data) == outcome


def test_a_step_that_skips_a_check_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    careful = FrameReader.only_texts

    def hasty(self: FrameReader, data: bytes, limits: FrameLimits) -> list[bytes] | None:
        texts = careful(self, data, limits)
        if texts is None and len(data) > 6 and data[0] == 0x81 and len(data) == (data[1] & 0x7F) + 6:
            return [mask(data[6:], data[2:6])]  # without a look at whether it is masked, and whether it is text
        return texts

    monkeypatch.setattr(FrameReader, "only_texts", hasty)
    with pytest.raises(Wrong, match="in one step"):
        run(10_000, seed=1)


def test_a_reader_to_whom_pieces_matter_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(FrameReader):
        __slots__ = ()

        def feed(self, data: bytes, limits: object) -> tuple[Received, ...] | list[Received]:
            self._rest = b""
            return super().feed(data, limits)  # type: ignore[arg-type]

    monkeypatch.setattr(fuzz, "FrameReader", Forgetful)
    with pytest.raises(Wrong, match="other pieces"):
        run(100, seed=1)
