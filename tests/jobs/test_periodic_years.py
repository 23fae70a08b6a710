"""When schedules are due: over twenty years, in ten zones, against the rules of Debian's cron.

The rules stand here a second time, in a different way: as local times between the changes of a
zone's clock. What DEBIAN holds was run by Debian's cron itself (3.0pl1-162), on a clock of its
own; what it ran in the minutes after a gap to catch up is written as the end of the gap.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

import faktory
from faktory.jobs.ticks import Schedule, schedules

cronsim = pytest.importorskip("cronsim", reason="needs cronsim (extra cron)")

ROOT = Path(__file__).parents[2]
BEGIN, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2046, 1, 1, tzinfo=UTC)

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Havana",  # the gap is at midnight
    "America/Santiago",  # the southern summer; midnight comes twice
    "America/Sao_Paulo",  # without changes since 2019
    "Africa/Casablanca",  # back for Ramadan
    "Asia/Kathmandu",  # +05:45
    "Australia/Lord_Howe",  # by half an hour
    "Antarctica/Troll",  # by two hours
    "Pacific/Apia",
]

FIXED = [
    "30 2 * * *",
    "0,15,30,45 2 * * *",
    "0 3 * * *",
    "45 1 * * 0",
    "0 0 * * *",
    "30 23 * * 6",
    "15,45 0,1,2,3 * * *",
    "0-30/7 2-3 * * *",
    "5 1-4 * * sun",
]
WILD = ["*/30 * * * *", "7 * * * *", "0 */2 * * *", "* 12 * * *"]
RARE = [
    "0 12 29 2 *",
    "0 0 31 * *",
    "30 2 13 * 5",
    "30 2 */2 * 1",
    "0 0 1 jan *",
    "*/20 5 2-31/9 jun-dec/3 *",
]
UNLIKE_DEBIAN = {("Australia/Lord_Howe", each) for each in ("0 */2 * * *", "* 12 * * *")}
"""What cronsim reads in its own way: see `test_what_cronsim_does_in_its_own_way`."""


_numbers = count()


@faktory.job
def work(*args: object) -> None: ...


def declare(expression: str | None = None, **given: Any) -> Schedule:
    faktory.periodic(expression, work, name=f"work-{next(_numbers)}", **given)
    return schedules()[-1]


@cache
def schedule(expression: str, tz: str = "UTC") -> Schedule:
    return declare(expression, tz=tz)


# The rules of Debian's cron, without its code.

NAMES = {
    name: number
    for names, first in (
        ("jan feb mar apr may jun jul aug sep oct nov dec", 1),
        ("sun mon tue wed thu fri sat", 0),
    )
    for number, name in enumerate(names.split(), first)
}


def values(field: str, low: int, high: int) -> set[int]:
    """Return the numbers that a field stands for."""
    found: set[int] = set()
    for term in field.split(","):
        span, _, step = term.partition("/")
        first, _, last = (f"{low}-{high}" if span == "*" else span).partition("-")
        numbers = [NAMES[each] if each in NAMES else int(each) for each in (first, last or first)]
        found |= set(range(numbers[0], numbers[1] + 1, int(step or 1)))
    return found


def local_times(expression: str, begin: datetime, end: datetime) -> Iterator[datetime]:
    """Yield the times on a clock without a zone, from `begin` on and before `end`."""
    minute, hour, day, month, weekday = expression.split()
    days, months = values(day, 1, 31), values(month, 1, 12)
    weekdays = {number % 7 for number in values(weekday, 0, 7)}
    times = [
        timedelta(hours=hours, minutes=minutes)
        for hours in sorted(values(hour, 0, 23))
        for minutes in sorted(values(minute, 0, 59))
    ]
    need = all if "*" in (day[0], weekday[0]) else any
    date = begin.replace(hour=0, minute=0)
    while date < end:
        if date.month in months and need((date.day in days, date.isoweekday() % 7 in weekdays)):
            yield from (date + each for each in times if begin <= date + each < end)
        date += timedelta(days=1)


@cache
def changes(zone: ZoneInfo, begin: datetime, end: datetime) -> list[tuple[datetime, timedelta]]:
    """Return from when on, in UTC, the zone's clock is ahead by how much."""

    def offset(moment: datetime) -> timedelta:
        found = moment.astimezone(zone).utcoffset()
        assert found is not None
        return found

    found = [(begin, offset(begin))]
    while begin < end:
        until = min(begin + timedelta(hours=12), end)
        if offset(until) != offset(begin):
            low, high = begin, until
            while high - low > timedelta(minutes=1):
                middle = low + (high - low) // timedelta(minutes=2) * timedelta(minutes=1)
                low, high = (middle, high) if offset(middle) == offset(low) else (low, middle)
            found.append((high, offset(high)))
        begin = until
    return found


def expected(expression: str, zone: str, begin: datetime, end: datetime) -> list[datetime]:
    """Return the ticks from `begin` on and before `end`, in UTC.

    An expression whose minute or hour begins with a star goes by the clock. The time of any other
    comes once: those that a change of the clock skips come right after it, those that it repeats
    come the first time.
    """
    minute, hour, *_ = expression.split()
    wild = "*" in (minute[0], hour[0])
    steps = [*changes(ZoneInfo(zone), begin, end), (end, timedelta(0))]
    found: list[datetime] = []
    past = datetime.min
    for (since, offset), (until, _) in pairwise(steps):
        first, last = ((each + offset).replace(tzinfo=None) for each in (since, until))
        if wild or past == datetime.min:
            past = first
        ticks = [
            max(each, first).replace(tzinfo=UTC) - offset
            for each in local_times(expression, past, max(past, last))
        ]
        found += dict.fromkeys(ticks)
        past = max(past, last)
    return found


def ticks(expression: str, zone: str, begin: datetime, end: datetime) -> list[datetime]:
    """Return the ticks of the schedule from `begin` on and before `end`, in UTC."""
    second = timedelta(seconds=1)
    found = schedule(expression, zone).ticks(begin - second, end - second)
    return [tick.astimezone(UTC) for tick in found]


# What Debian's cron ran in the six hours after a local time: the local times, with the offset of
# those that come twice.

DEBIAN = {
    ("Europe/Berlin", "2026-03-29T00:00"): {
        "30 2 * * *": "03:00",
        "0,30 2 * * *": "03:00",
        "0 2-4 * * *": "03:00 04:00",
        "*/30 2 * * *": "",
        "0 */2 * * *": "00:00 04:00 06:00",
        "30 * * * *": "00:30 01:30 03:30 04:30 05:30 06:30",
    },
    ("Europe/Berlin", "2026-10-25T00:00"): {
        "30 2 * * *": "02:30+02:00",
        "0 2-4 * * *": "02:00+02:00 03:00 04:00",
        "*/30 2 * * *": "02:00+02:00 02:30+02:00 02:00+01:00 02:30+01:00",
        "0 */2 * * *": "00:00 02:00+02:00 02:00+01:00 04:00",
        "30 * * * *": "00:30 01:30 02:30+02:00 02:30+01:00 03:30 04:30",
    },
    ("Australia/Lord_Howe", "2026-04-05T00:00"): {
        "45 1 * * *": "01:45+11:00",
        "0 2 * * *": "02:00",
        "*/15 1 * * *": "01:00 01:15 01:30+11:00 01:45+11:00 01:30+10:30 01:45+10:30",
        "20 * * * *": "00:20 01:20 02:20 03:20 04:20 05:20",
    },
    ("Australia/Lord_Howe", "2026-10-04T00:00"): {
        "15 2 * * *": "02:30",
        "0 2,3 * * *": "02:30 03:00",
        "*/15 2 * * *": "02:30 02:45",
        "20 * * * *": "00:20 01:20 03:20 04:20 05:20 06:20",
    },
    ("America/Havana", "2026-03-07T22:00"): {
        "0 0 * * *": "01:00",
        "30 0 * * 0": "01:00",
        "15 0,1 * * *": "01:00 01:15",
        "*/20 0 * * *": "",
    },
    ("America/Havana", "2026-10-31T22:00"): {
        "0 0 * * *": "00:00-04:00",
        "15 0,1 * * *": "00:15-04:00 01:15",
        "*/30 0 * * 0": "00:00-04:00 00:30-04:00 00:00-05:00 00:30-05:00",
    },
    ("America/Santiago", "2026-04-04T20:00"): {
        "30 23 * * *": "23:30-03:00",
        "0 0 * * *": "00:00",
        "*/30 23 * * 6": "23:00-03:00 23:30-03:00 23:00-04:00 23:30-04:00",
    },
    ("America/Santiago", "2026-09-05T20:00"): {
        "30 0 * * *": "01:00",
        "0 0,1 * * *": "01:00",
        "*/30 0 * * *": "",
    },
    ("Africa/Casablanca", "2026-02-15T00:00"): {
        "30 2 * * *": "02:30+01:00",
        "*/30 2 * * *": "02:00+01:00 02:30+01:00 02:00+00:00 02:30+00:00",
    },
    ("Africa/Casablanca", "2026-03-22T00:00"): {
        "30 2 * * *": "03:00",
        "*/30 2 * * *": "",
    },
    ("Antarctica/Troll", "2026-03-29T00:00"): {
        "30 1,2 * * *": "03:00",
        "*/30 1 * * *": "",
    },
    ("Antarctica/Troll", "2026-10-25T00:00"): {
        "30 1,2 * * *": "01:30+02:00 02:30+02:00",
        "*/30 1 * * *": "01:00+02:00 01:30+02:00 01:00+00:00 01:30+00:00",
    },
}


@pytest.mark.parametrize(("zone", "begin"), DEBIAN, ids="-".join)
def test_schedules_do_what_debians_cron_did_where_clocks_change(zone: str, begin: str) -> None:
    local = ZoneInfo(zone)
    since = datetime.fromisoformat(begin).replace(tzinfo=local)
    end = since.astimezone(UTC) + timedelta(hours=6)
    for expression, times in DEBIAN[zone, begin].items():
        found = [tick.astimezone(local) for tick in ticks(expression, zone, since, end)]
        assert " ".join(map(_clock, found)) == times, expression
        rules = expected(expression, zone, since.astimezone(UTC), end)
        assert " ".join(_clock(tick.astimezone(local)) for tick in rules) == times, expression


def _clock(tick: datetime) -> str:
    twice = tick.replace(fold=0).utcoffset() != tick.replace(fold=1).utcoffset()
    return f"{tick:%H:%M}{tick.isoformat()[-6:] if twice else ''}"


# Counted by hand, on a calendar.

COUNTED = [
    ("0 12 29 2 *", "UTC", ["2028-02-29 12:00", "2032-02-29 12:00", "2036-02-29 12:00"]),
    ("0 0 13 * fri", "UTC", ["2026-01-02 00:00", "2026-01-09 00:00", "2026-01-13 00:00"]),
    ("0 0 13 */1 *", "UTC", ["2026-01-13 00:00", "2026-02-13 00:00", "2026-03-13 00:00"]),
    ("0 0 */2 * mon", "UTC", ["2026-01-05 00:00", "2026-01-19 00:00", "2026-02-09 00:00"]),
    ("0 0 31 * *", "UTC", ["2026-01-31 00:00", "2026-03-31 00:00", "2026-05-31 00:00"]),
    ("0 0 * * 7", "UTC", ["2026-01-04 00:00", "2026-01-11 00:00", "2026-01-18 00:00"]),
    ("0 0 * * 5-7", "UTC", ["2026-01-02 00:00", "2026-01-03 00:00", "2026-01-04 00:00"]),
    ("@weekly", "UTC", ["2026-01-04 00:00", "2026-01-11 00:00", "2026-01-18 00:00"]),
    ("@monthly", "UTC", ["2026-02-01 00:00", "2026-03-01 00:00", "2026-04-01 00:00"]),
    ("@yearly", "Asia/Kathmandu", ["2026-12-31 18:15", "2027-12-31 18:15", "2028-12-31 18:15"]),
    ("@daily", "Asia/Kathmandu", ["2026-01-01 18:15", "2026-01-02 18:15", "2026-01-03 18:15"]),
    ("@hourly", "Asia/Kathmandu", ["2026-01-01 00:15", "2026-01-01 01:15", "2026-01-01 02:15"]),
    ("0 9 1 7 *", "Europe/Berlin", ["2026-07-01 07:00", "2027-07-01 07:00", "2028-07-01 07:00"]),
    (
        "0 9 1 7 *",
        "America/Sao_Paulo",
        ["2026-07-01 12:00", "2027-07-01 12:00", "2028-07-01 12:00"],
    ),
    ("0 9 1 1 *", "Pacific/Apia", ["2026-12-31 20:00", "2027-12-31 20:00", "2028-12-31 20:00"]),
]


@pytest.mark.parametrize(("expression", "zone", "times"), COUNTED)
def test_ticks_are_those_of_the_calendar(expression: str, zone: str, times: list[str]) -> None:
    found = islice(schedule(expression, zone).ticks(BEGIN, END), 3)
    assert [f"{tick.astimezone(UTC):%Y-%m-%d %H:%M}" for tick in found] == times


def test_the_century_has_no_leap_day() -> None:
    after = schedule("0 12 29 2 *").next(datetime(2096, 3, 1, tzinfo=UTC))
    assert after == datetime(2104, 2, 29, 12, tzinfo=UTC)


def test_the_day_that_samoa_skipped() -> None:
    apia = ZoneInfo("Pacific/Apia")
    begin = datetime(2011, 12, 28, 12, tzinfo=apia)
    found = islice(schedule("0 9 * * *", "Pacific/Apia").ticks(begin, END), 4)
    assert [f"{tick:%d %H:%M %z}" for tick in found] == [
        "29 09:00 -1000",
        "31 00:00 +1400",  # that of the 30th, which had no nine o'clock
        "31 09:00 +1400",
        "01 09:00 +1400",
    ]


@pytest.mark.parametrize(
    ("zone", "begin"),
    [
        ("Pacific/Apia", "2011-12-29T00:00-10:00"),  # without a 30th
        ("Pacific/Kwajalein", "1993-08-20T00:00-12:00"),  # without a 21st
        ("America/Havana", "2026-03-06T00:00-05:00"),
        ("Australia/Lord_Howe", "2026-04-04T00:00+11:00"),
        ("Antarctica/Troll", "2026-10-24T00:00+02:00"),
    ],
)
@pytest.mark.parametrize(
    "expression", ["*/7 */5 * * *", "40 * * * *", "*/20 0-2 * * *", "9 1 * * *"]
)
def test_ticks_do_not_depend_on_where_the_search_begins(
    expression: str, zone: str, begin: str
) -> None:
    read = schedule(expression, zone)
    since = datetime.fromisoformat(begin).astimezone(UTC)
    end = since + timedelta(days=4)
    whole = list(read.ticks(since, end))
    for minutes in range(0, 3 * 24 * 60, 101):
        after = since + timedelta(minutes=minutes, seconds=11)
        assert list(read.ticks(after, end)) == [tick for tick in whole if tick > after], after


def test_an_interval_counts_from_the_epoch_whatever_clocks_do() -> None:
    hourly = declare(every=timedelta(hours=1), tz="Europe/Berlin")
    begin = datetime(2026, 10, 24, 23, 59, 59, tzinfo=UTC)
    found = [*hourly.ticks(begin, begin + timedelta(hours=3))]
    assert [f"{tick:%H:%M %z}" for tick in found] == ["02:00 +0200", "02:00 +0100", "03:00 +0100"]
    odd = declare(every=7 * 86400)  # the epoch was a Thursday
    assert odd.next(BEGIN) == datetime(2026, 1, 8, tzinfo=UTC)


def around(zone: str, years: int = 20) -> list[tuple[datetime, datetime]]:
    """Return the two days around each change of a zone's clock, and around each end of February."""
    end = BEGIN.replace(year=BEGIN.year + years)
    moments = [moment for moment, _ in changes(ZoneInfo(zone), BEGIN, end)[1:]]
    moments += [datetime(year, 2, 28, 12, tzinfo=UTC) for year in range(BEGIN.year, end.year)]
    day = timedelta(days=1)
    return [(moment - day, moment + day) for moment in moments]


def like_debian(zone: str) -> list[str]:
    return [each for each in (*FIXED, *WILD) if (zone, each) not in UNLIKE_DEBIAN]


@pytest.mark.parametrize("zone", ZONES)
def test_ticks_follow_the_rules_where_clocks_change(zone: str) -> None:
    for expression in like_debian(zone):
        for begin, end in around(zone, years=2):
            found = ticks(expression, zone, begin, end)
            assert found == expected(expression, zone, begin, end), (expression, begin)


@pytest.mark.parametrize("zone", ZONES)
def test_rare_ticks_follow_the_rules_for_twenty_years(zone: str) -> None:
    for expression in RARE:
        assert ticks(expression, zone, BEGIN, END) == expected(expression, zone, BEGIN, END)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("zone", ZONES)
def test_all_ticks_of_twenty_years_are_those_of_cronsim_and_of_the_rules(zone: str) -> None:
    for expression in (*FIXED, *WILD):
        found = ticks(expression, zone, BEGIN, END)
        if (zone, expression) not in UNLIKE_DEBIAN:
            assert found == expected(expression, zone, BEGIN, END), expression
        begin = (BEGIN - timedelta(seconds=1)).astimezone(ZoneInfo(zone))
        theirs = cronsim.CronSim(expression, begin)
        assert found == [each.astimezone(UTC) for each in islice(theirs, len(found))], expression


@pytest.mark.parametrize("share", [4, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("zone", ZONES)
def test_a_scheduler_that_looks_every_half_minute_sees_each_tick_once(
    zone: str, share: int
) -> None:
    """A window begins anywhere: in a gap's last second, or in the second pass of an hour."""
    step = timedelta(seconds=1800 - 7)
    for expression in like_debian(zone)[ZONES.index(zone) % share :: share]:
        read = schedule(expression, zone)
        for begin, end in around(zone, years=1):
            found: list[datetime] = []
            moment = begin - timedelta(seconds=1)
            while moment < end - timedelta(seconds=1):
                until = min(moment + step, end - timedelta(seconds=1))
                found += (tick.astimezone(UTC) for tick in read.ticks(moment, until))
                assert read.next(moment) > moment
                moment = until
            assert found == expected(expression, zone, begin, end), (expression, begin)


@pytest.mark.parametrize(
    ("expression", "zone", "day", "cronsims", "debians"),
    [
        # The clock goes back from 2:00 to 1:30, and cronsim goes by full hours from 1:00 on.
        (
            "*/15 2 * * *",
            "Australia/Lord_Howe",
            "2026-04-05",
            "02:30 02:45",
            "02:00 02:15 02:30 02:45",
        ),
        ("0 3 */1 * *", "Australia/Lord_Howe", "2026-04-05", "03:00", "03:00"),
        # There is no midnight, and a day's first hour is 1:00.
        ("*/20 0 * * sun", "America/Havana", "2026-03-08", "01:00", ""),
        ("*/20 1 * * sun", "America/Havana", "2026-03-08", "", "01:00 01:20 01:40"),
        ("*/20 1 * * *", "America/Havana", "2026-03-08", "01:00 01:20 01:40", "01:00 01:20 01:40"),
    ],
)
def test_what_cronsim_does_in_its_own_way(
    expression: str, zone: str, day: str, cronsims: str, debians: str
) -> None:
    """Where a star reaches a change by half an hour, or a day without a midnight."""
    local = ZoneInfo(zone)
    noon = datetime.fromisoformat(day).replace(tzinfo=local, hour=12).astimezone(UTC)
    for times, function in ((cronsims, ticks), (debians, expected)):
        found = function(expression, zone, noon - timedelta(hours=36), noon)
        shown = [_clock(tick) for each in found if f"{(tick := each.astimezone(local)):%F}" == day]
        assert " ".join(shown) == times


# The job of a tick is the same on each machine.

SHOW = f"""
import json, sys
sys.path += {json.dumps([str(Path(cronsim.__file__).parents[1])])}
from datetime import UTC, datetime, timedelta
import faktory
from faktory.jobs.ticks import schedules

@faktory.job(queue="reports", retry=3, custom={{"b": 1, "a": "\u00e9"}})
def report(*args): ...

names = ["report", "r\u00e9sum\u00e9", "10:00", " spaces "]
for name, zone in zip(names, ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu"]):
    args = lambda tick: (tick.date().isoformat(), tick.isoformat())
    faktory.periodic("*/30 * * * *", report, tz=zone, name=name, args=args)
faktory.periodic(every=timedelta(seconds=90), job=report, name="often", tz="America/New_York")

shown = []
begin = datetime(2026, 10, 25, tzinfo=UTC)
for schedule in schedules():
    for tick in schedule.ticks(begin, begin + timedelta(hours=2)):
        shown.append(json.dumps(schedule.payload(tick)))
print(json.dumps(shown))
"""


def shown_by(python: str, **variables: str) -> list[str]:
    kept = {"PATH": os.environ["PATH"], "FAKTORY_IMPL": "python", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [python, "-"], cwd=ROOT, env=kept | variables, input=SHOW, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    shown: list[str] = json.loads(done.stdout)
    return shown


@pytest.fixture(scope="module")
def payloads() -> list[str]:
    return shown_by(sys.executable)


@pytest.mark.parametrize(
    "variables",
    [
        {"TZ": "America/New_York", "PYTHONHASHSEED": "1", "LC_ALL": "de_DE.UTF-8"},
        {"TZ": "Pacific/Apia", "PYTHONHASHSEED": "42", "LC_ALL": "C", "PYTHONUTF8": "0"},
    ],
    ids=["new-york", "apia"],
)
def test_a_job_is_the_same_in_processes_of_other_zones(
    payloads: list[str], variables: dict[str, str]
) -> None:
    assert shown_by(sys.executable, **variables) == payloads


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_a_job_is_the_same_in_other_versions_of_python(payloads: list[str], version: str) -> None:
    python = shutil.which(f"python{version}")
    if not python or subprocess.run([python, "-V"], capture_output=True).returncode:
        pytest.skip(f"needs python{version}")
    assert shown_by(python, PYTHONHASHSEED="7") == payloads


def test_the_id_of_a_tick_does_not_change_with_versions_of_this_package(
    payloads: list[str],
) -> None:
    jobs = [json.loads(each) for each in payloads]
    assert len({job["jid"] for job in jobs}) == len(jobs) == 4 * 4 + 80
