"""When things fire: the tables of the zones' odd days, and that no walk goes back, repeats, or loses a fire."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dougong.errors import Invalid
from dougong.jobs.schedules.cron import CronText
from dougong.jobs.schedules.dst import Dst
from dougong.jobs.schedules.times import At, Cron, Every, When

NEW_YORK = "America/New_York"
HOURS_SPRING = [f"2026-03-08 {hour:02}:00" for hour in range(24) if hour != 2]
HOURS_FALL = [
    "2026-11-01 00:00",
    "2026-11-01 01:00",
    "2026-11-01 01:00+",
    *(f"2026-11-01 {h:02}:00" for h in range(2, 24)),
]


def fires(cron: Cron, day: str, days: int = 1) -> list[str]:
    """On the wall, from the midnight that begins a day; `+` marks the second time the clock shows it."""
    zone = ZoneInfo(cron.zone)
    begin = datetime.fromisoformat(day).replace(tzinfo=zone)
    end = (datetime.fromisoformat(day) + timedelta(days=days)).replace(tzinfo=zone)
    shown: list[str] = []
    for fire_us in walk(cron, _us(begin) - 1, _us(end)):
        wall = datetime.fromtimestamp(fire_us / 1e6, zone)
        shown.append(f"{wall:%Y-%m-%d %H:%M}" + "+" * wall.fold)
    return shown


def walk(when: When, after_us: int, until_us: int) -> list[int]:
    found: list[int] = []
    following = when.after_us(after_us)
    while following is not None and following < until_us:
        found.append(following)
        following = when.after_us(following)
    return found


def _us(time: datetime) -> int:
    return round(time.timestamp()) * 1_000_000


@pytest.mark.parametrize(
    ("text", "day", "skip", "once", "twice"),
    [
        # spring: 02:00 to 03:00 does not come on 2026-03-08
        ("30 2 * * *", "2026-03-08", [], ["2026-03-08 03:00"], ["2026-03-08 03:00"]),
        ("30 2 * * *", "2026-03-07", *3 * [["2026-03-07 02:30"]]),
        ("30 2 * * *", "2026-03-09", *3 * [["2026-03-09 02:30"]]),
        ("15,45 2 * * *", "2026-03-08", [], ["2026-03-08 03:00"], ["2026-03-08 03:00"]),
        ("0 2,3 * * *", "2026-03-08", *3 * [["2026-03-08 03:00"]]),
        ("30 3 * * *", "2026-03-08", *3 * [["2026-03-08 03:30"]]),
        ("*/30 2 * * *", "2026-03-08", [], [], []),  # a star: it counts hours as they pass, and this one does not
        ("0 * * * *", "2026-03-08", *3 * [HOURS_SPRING]),
        # fall: 01:00 to 02:00 comes twice on 2026-11-01
        ("30 1 * * *", "2026-11-01", ["2026-11-01 01:30"], ["2026-11-01 01:30"],
         ["2026-11-01 01:30", "2026-11-01 01:30+"]),
        ("30 1 * * *", "2026-10-31", *3 * [["2026-10-31 01:30"]]),
        ("30 1 * * *", "2026-11-02", *3 * [["2026-11-02 01:30"]]),
        ("0 2 * * *", "2026-11-01", *3 * [["2026-11-01 02:00"]]),
        ("0 1,2 * * *", "2026-11-01", *2 * [["2026-11-01 01:00", "2026-11-01 02:00"]],
         ["2026-11-01 01:00", "2026-11-01 01:00+", "2026-11-01 02:00"]),
        ("0 * * * *", "2026-11-01", *3 * [HOURS_FALL]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("policy", list(Dst))
def test_new_york_2026(text: str, day: str, skip: list[str], once: list[str], twice: list[str], policy: Dst) -> None:
    expected = {Dst.SKIP: skip, Dst.ONCE: once, Dst.TWICE: twice}[policy]
    assert fires(Cron(text, NEW_YORK, policy), day) == expected


@pytest.mark.parametrize(
    ("zone", "text", "day", "skip", "once", "twice"),
    [
        # Lord Howe's clock moves by half an hour
        ("Australia/Lord_Howe", "15 2 * * *", "2026-10-04", [], *2 * [["2026-10-04 02:30"]]),
        ("Australia/Lord_Howe", "45 2 * * *", "2026-10-04", *3 * [["2026-10-04 02:45"]]),
        ("Australia/Lord_Howe", "45 1 * * *", "2026-04-05", *2 * [["2026-04-05 01:45"]],
         ["2026-04-05 01:45", "2026-04-05 01:45+"]),
        ("Australia/Lord_Howe", "15 1 * * *", "2026-04-05", *3 * [["2026-04-05 01:15"]]),
        ("Australia/Lord_Howe", "*/20 3 * * *", "2026-10-04",
         *3 * [["2026-10-04 03:00", "2026-10-04 03:20", "2026-10-04 03:40"]]),
        # Samoa had no 30 December 2011: a missed day is made up for once, however often it would have fired
        ("Pacific/Apia", "0 12 * * *", "2011-12-29", ["2011-12-29 12:00", "2011-12-31 12:00"],
         *2 * [["2011-12-29 12:00", "2011-12-31 00:00", "2011-12-31 12:00"]]),
        ("Pacific/Apia", "0 6,18 30 12 *", "2011-12-29", [], *2 * [["2011-12-31 00:00"]]),
        ("Pacific/Apia", "0 */12 * * *", "2011-12-29",
         *3 * [["2011-12-29 00:00", "2011-12-29 12:00", "2011-12-31 00:00", "2011-12-31 12:00"]]),
        # Havana's clock shows midnight twice, Santiago's jumps over it
        ("America/Havana", "30 0 * * *", "2026-11-01",
         *2 * [["2026-11-01 00:30", "2026-11-02 00:30", "2026-11-03 00:30"]],
         ["2026-11-01 00:30", "2026-11-01 00:30+", "2026-11-02 00:30", "2026-11-03 00:30"]),
        ("America/Santiago", "0 0 * * *", "2026-09-06", ["2026-09-07 00:00", "2026-09-08 00:00"],
         *2 * [["2026-09-06 01:00", "2026-09-07 00:00", "2026-09-08 00:00"]]),
        ("UTC", "30 2 * * *", "2026-03-08", *3 * [["2026-03-08 02:30", "2026-03-09 02:30", "2026-03-10 02:30"]]),
        ("Asia/Kathmandu", "0 0 * * *", "2026-03-08",
         *3 * [["2026-03-08 00:00", "2026-03-09 00:00", "2026-03-10 00:00"]]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("policy", list(Dst))
def test_other_zones(
    zone: str, text: str, day: str, skip: list[str], once: list[str], twice: list[str], policy: Dst
) -> None:
    expected = {Dst.SKIP: skip, Dst.ONCE: once, Dst.TWICE: twice}[policy]
    days = 1 if zone == "Australia/Lord_Howe" else 3
    assert fires(Cron(text, zone, policy), day, days) == expected


def by_every_minute(cron: Cron, begin: datetime, minutes: int) -> list[int]:
    """What should fire, found by looking at the wall clock every minute, and at the wall times that never showed."""
    zone, text = ZoneInfo(cron.zone), CronText(cron.text)
    shown: set[datetime] = set()
    found: list[int] = []
    previous: datetime | None = None
    matching = _matching(text, begin.replace(tzinfo=None) - timedelta(days=3), timedelta(days=5))
    for minute in range(-1600, minutes):
        now = begin + timedelta(minutes=minute)
        wall = now.astimezone(zone).replace(tzinfo=None)
        if previous is not None:
            gap = [previous + timedelta(minutes=n) for n in range(1, round((wall - previous).total_seconds() // 60))]
            matches = wall in matching
            if wall in shown:
                matches = matches and (text.follows_hours or cron.dst is Dst.TWICE)
            if gap and not text.follows_hours and cron.dst is not Dst.SKIP:
                matches = matches or not matching.isdisjoint(gap)
            if matches and minute >= 0:
                found.append(_us(now))
        shown.add(wall)
        previous = wall
    return found


def _matching(text: CronText, wall: datetime, reach: timedelta) -> set[datetime]:
    found: set[datetime] = set()
    following = text.after(wall)
    while following is not None and following < wall + reach:
        found.add(following)
        following = text.after(following)
    return found


_minute = st.sampled_from(["0", "30", "15,45", "*/20", "59", "*"])
_hour = st.sampled_from(["*", "0", "1", "2", "1-3", "*/2", "0,23", "2,3"])
_day = st.sampled_from(["* * *", "* * *", "1-8 * *", "* * 0", "30,31 12 *"])
_crons = st.builds("{} {} {}".format, _minute, _hour, _day)
_odd_days = st.sampled_from(
    [
        (NEW_YORK, datetime(2026, 3, 8, tzinfo=UTC)),
        (NEW_YORK, datetime(2026, 11, 1, tzinfo=UTC)),
        ("Australia/Lord_Howe", datetime(2026, 4, 4, 6, tzinfo=UTC)),
        ("Australia/Lord_Howe", datetime(2026, 10, 3, 6, tzinfo=UTC)),
        ("Pacific/Apia", datetime(2011, 12, 30, 0, tzinfo=UTC)),
        ("America/Havana", datetime(2026, 11, 1, 0, tzinfo=UTC)),
        ("America/Santiago", datetime(2026, 4, 4, 20, tzinfo=UTC)),
        ("America/Santiago", datetime(2026, 9, 5, 20, tzinfo=UTC)),
        ("Africa/Casablanca", datetime(2026, 2, 14, 20, tzinfo=UTC)),
        ("UTC", datetime(2026, 12, 30, 20, tzinfo=UTC)),
    ]
)


@given(_crons, _odd_days, st.sampled_from(Dst))
@example("30 2 * * *", (NEW_YORK, datetime(2026, 3, 8, tzinfo=UTC)), Dst.ONCE)
def test_it_fires_as_the_wall_clock_says(text: str, day: tuple[str, datetime], policy: Dst) -> None:
    cron = Cron(text, day[0], policy)
    end = day[1] + timedelta(minutes=1000)
    assert walk(cron, _us(day[1]) - 1, _us(end)) == by_every_minute(cron, day[1], 1000)


_zones = st.sampled_from([NEW_YORK, "Australia/Lord_Howe", "Pacific/Apia", "Europe/Dublin", "UTC", "Africa/Cairo"])
_whens: st.SearchStrategy[When] = st.one_of(
    st.builds(Cron, _crons, _zones, st.sampled_from(Dst)),
    st.builds(Every, st.floats(3600, 1e6), st.floats(0, 3599)),
    st.builds(At, st.integers(0, 2**51)),
)


@given(_whens, st.integers(10**15, 2 * 10**15), st.lists(st.integers(1, 10**12), min_size=1, max_size=20))
def test_it_never_goes_back_and_a_fire_is_the_same_from_wherever_it_is_asked(
    when: When, begin_us: int, steps: list[int]
) -> None:
    following, asked = when.after_us(begin_us), begin_us
    for step in steps:
        asked += step
        if following is None:
            assert when.after_us(asked) is None
        elif following > asked:
            assert when.after_us(asked) == following  # nothing lies between, wherever one stands
        else:
            later = when.after_us(following)
            assert later is None or later > following
            following = when.after_us(asked)
            assert following is None or following > asked


def test_an_interval_is_the_same_in_every_process() -> None:
    every = Every(90.0, offset_s=7)
    assert [f // 1_000_000 for f in walk(every, 0, 300_000_000)] == [7, 97, 187, 277]
    assert all(b - a == 90_000_000 for a, b in pairwise(walk(every, 10**15, 10**15 + 10**9)))


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: Every(0.5), "bad_interval"),
        (lambda: Every(float("nan")), "bad_interval"),
        (lambda: Every(60, 60), "bad_interval"),
        (lambda: At(-1), "bad_time"),
        (lambda: Cron("* * * * *", "Mars/Olympus"), "unknown_zone"),
        (lambda: Cron("* * * * *", "../../etc/passwd"), "unknown_zone"),
        (lambda: Cron("* * * * *", "America"), "unknown_zone"),
        (lambda: Cron("* * * * *", ""), "unknown_zone"),
        (lambda: Cron("0 0 30 2 *"), "bad_cron"),
    ],
)
def test_what_is_no_time_is_refused(make: object, code: str) -> None:
    assert callable(make)
    with pytest.raises(Invalid) as refused:
        make()
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("when", "day", "why"),
    [
        (Cron("30 2 * * *", NEW_YORK), datetime(2026, 3, 8, 7, tzinfo=UTC),
         ("'30 2 * * *' at Sun 2026-03-08 03:00:00 America/New_York: in place of 2026-03-08 02:30, "
          "which the clock there skips")),
        (Cron("30 1 * * *", NEW_YORK, Dst.TWICE), datetime(2026, 11, 1, 5, 30, tzinfo=UTC),
         "'30 1 * * *' at Sun 2026-11-01 01:30:00 America/New_York: the first time that the clock shows this"),
        (Cron("30 1 * * *", NEW_YORK, Dst.TWICE), datetime(2026, 11, 1, 6, 30, tzinfo=UTC),
         "'30 1 * * *' at Sun 2026-11-01 01:30:00 America/New_York: the second time that the clock shows this"),
        (Cron("0 3 * * *", NEW_YORK), datetime(2026, 3, 8, 7, tzinfo=UTC),
         "'0 3 * * *' at Sun 2026-03-08 03:00:00 America/New_York"),
        (Every(90, 5), datetime(2026, 1, 1, tzinfo=UTC), "every 90 s, and 5 s"),
        (At(0), datetime(1970, 1, 1, tzinfo=UTC), "once"),
    ],
)  # fmt: skip
def test_it_says_why(when: When, day: datetime, why: str) -> None:
    assert when.why(_us(day)) == why
