"""Cron text: what is refused says where and why; what is accepted is what cronsim accepts."""

from __future__ import annotations

import string
from datetime import datetime

import pytest
from cronsim import CronSim, CronSimError
from hypothesis import example, given
from hypothesis import strategies as st

from dougong.errors import Invalid
from dougong.jobs.schedules.cron import MACROS, CronText

NEW_YEAR = datetime.fromisoformat("2026-01-01")


@pytest.mark.parametrize(
    ("text", "field", "position", "reason"),
    [
        ("60 * * * *", "minute", 1, "60 is not 0 to 59"),
        ("0 24 * * *", "hour", 3, "24 is not 0 to 23"),
        ("0 0 0 * *", "day-of-month", 5, "0 is not 1 to 31"),
        ("0  0 1,32 * *", "day-of-month", 8, "32 is not 1 to 31"),
        ("0 0 * JANUARY *", "month", 7, "'JANUARY' is no value: 1 to 12 or JAN to DEC"),
        ("0 0 * * mon-", "day-of-week", 13, "a value is missing: 0 to 7 or SUN to SAT"),
        ("0 0 * * fri-mon", "day-of-week", 9, "the range FRI-MON goes backwards"),
        ("*/0 * * * *", "minute", 3, "the step '0' must be a number from 1 on"),
        ("0 1,,2 * * *", "hour", 5, "a value is missing"),
        ("0 0 * * 1#6", "day-of-week", 11, "'6' after # must be 1 to 5: which of the month it is"),
        ("? * * * *", "minute", 1, "'?' is no value: 0 to 59"),
        ("0 0 30 2 *", "day-of-month", 5, "no day-of-month 30 month 2 day-of-week * ever comes"),
        ("0 0 31 4,6,9,11 *", "day-of-month", 5, "no day-of-month 31 month 4,6,9,11 day-of-week * ever comes"),
        ("0 0 */31 2 mon#2", "day-of-month", 5, "no day-of-month */31 month 2 day-of-week mon#2 ever comes"),
        ("* * * *", "text", 8, "4 fields; five are needed: minute hour day-of-month month day-of-week"),
        ("", "text", 1, "0 fields; five are needed: minute hour day-of-month month day-of-week"),
        ("@reboot", "text", 1, "@reboot is no time: run it where the app starts"),
        ("@every 5m", "text", 1, "@every is no cron text: use Every(seconds)"),
        ("@daily x", "text", 8, "nothing may follow @daily"),
        ("0 0 * * m\u00f6n", "text", 10, "'\u00f6' has no meaning in cron text"),
    ],
)
def test_what_is_refused_says_where_and_why(text: str, field: str, position: int, reason: str) -> None:
    with pytest.raises(Invalid) as refused:
        CronText(text)
    error = refused.value
    assert (error.code, error.fields["field"], error.fields["position"], error.fields["reason"]) == (
        "bad_cron",
        field,
        position,
        reason,
    )


@pytest.mark.parametrize("text", ["0 0 0 1 1 *", "0 0 0 1 1 * 2030"])
def test_seconds_and_years_are_refused_with_what_to_use_instead(text: str) -> None:
    with pytest.raises(Invalid, match=r"seconds and years are not supported: for seconds use Every\(seconds\)"):
        CronText(text)


def test_a_text_without_end_is_refused_before_it_is_read() -> None:
    with pytest.raises(Invalid, match="200 at most") as refused:
        CronText("1," * 100_000)
    assert len(refused.value.message) < 400


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("@daily", "2026-01-02 00:00"),
        ("@Yearly", "2027-01-01 00:00"),
        ("0 0 13 * 5", "2026-01-02 00:00"),  # a 13th or a Friday
        ("0 0 13 * */5", "2026-02-13 00:00"),  # the star makes it both: a 13th that is a Friday (or a Sunday)
        ("0 0 29 2 *", "2028-02-29 00:00"),
        ("0 0 lw * *", "2026-01-30 00:00"),
        ("0 0 L feb *", "2026-02-28 00:00"),
        ("0 12 * * Mon#2", "2026-01-12 12:00"),
        ("0 12 * * 5L", "2026-01-30 12:00"),
        ("0 0 * * 7", "2026-01-04 00:00"),
        ("5/20 8-10/2 * * *", "2026-01-01 08:05"),
    ],
)
def test_debians_meaning(text: str, first: str) -> None:
    assert CronText(text).after(NEW_YEAR) == datetime.fromisoformat(first)


_pieces = st.text(alphabet="0123456789*,-/LW# @?", max_size=5) | st.sampled_from(
    ["*", "1-5", "*/2", "JAN", "mon", "5L", "1#2"]
)
_texts = st.lists(_pieces, min_size=4, max_size=7).map(" ".join) | st.text(max_size=30) | st.sampled_from(list(MACROS))


@pytest.mark.fuzz
@given(_texts)
@example("0 0 * * MON#1/2")
@example("0 0 \u00b2 * *")
@example("0 0 * * L")
@example("0 0 L/2 * *")
@example("0 0 1-1/3 * *")
@example("0 0 * * 1-2#2")
def test_it_accepts_what_cronsim_accepts_and_refuses_in_one_way(text: str) -> None:
    try:
        ours = CronText(text)
    except Invalid as error:
        _check_refusal(error, text)
        if len(text.split()) == 5 and text.isascii() and text.isprintable() and not text.startswith("@"):
            with pytest.raises((CronSimError, StopIteration, ValueError)):
                next(CronSim(text, NEW_YEAR))
    else:
        assert ours.after(NEW_YEAR) is not None


def _check_refusal(error: Invalid, text: str) -> None:
    position = error.fields["position"]
    assert error.code == "bad_cron"
    assert error.fields["reason"]
    assert isinstance(position, int)
    assert 1 <= position <= len(text) + 1


@given(st.text(alphabet=string.printable, max_size=200))
@pytest.mark.fuzz
def test_nothing_but_invalid_is_raised(text: str) -> None:
    try:
        CronText(text)
    except Invalid:
        pass
