"""Schedules: how they are declared, what is wrong with them, and the job of a tick."""

from __future__ import annotations

import builtins
import importlib
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

import faktory
from faktory.exceptions import FaktoryPayloadError
from faktory.jobs import registry
from faktory.jobs.context import JobContext
from faktory.jobs.ticks import Schedule, schedules

pytest.importorskip("cronsim", reason="needs cronsim (extra cron)")

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _isolated() -> Iterator[None]:
    with registry.isolated():
        yield


@pytest.fixture
def sweep() -> Any:
    @faktory.job
    def sweep() -> None: ...

    return sweep


@pytest.fixture
def report() -> Any:
    @faktory.job
    def report(day: str) -> None: ...

    return report


def last() -> Schedule:
    return schedules()[-1]


def ticks(schedule: Schedule, count: int, after: datetime = NOW) -> list[str]:
    found = schedule.ticks(after)
    return [next(found).isoformat() for _ in range(count)]


def day_of(tick: datetime) -> list[str]:
    return [tick.date().isoformat()]


# Declared in all forms


def test_a_decorator_returns_the_job(sweep: Any) -> None:
    assert faktory.periodic("*/5 * * * *")(sweep) is sweep
    assert (last().name, last().jobtype, last().when) == ("sweep", "sweep", "*/5 * * * *")
    assert ticks(last(), 2) == ["2026-03-01T00:05:00+00:00", "2026-03-01T00:10:00+00:00"]


def test_a_call_with_arguments_and_a_zone(report: Any) -> None:
    made = faktory.periodic("0 2 * * *", report, tz="Europe/Berlin", args=day_of)
    assert made is report
    tick = last().next(NOW)
    assert tick == datetime(2026, 3, 1, 1, tzinfo=UTC)
    assert tick.isoformat() == "2026-03-01T02:00:00+01:00"
    assert last().payload(tick)["args"] == ["2026-03-01"]


def test_an_interval_counts_from_the_epoch_whenever_it_begins(sweep: Any) -> None:
    faktory.periodic(every=timedelta(hours=1), job=sweep, name="sweep-hourly")
    assert last().when == "every 1:00:00"
    for minutes in (0, 1, 59):
        expected = ["2026-03-01T01:00:00+00:00", "2026-03-01T02:00:00+00:00"]
        assert ticks(last(), 2, NOW + timedelta(minutes=minutes)) == expected


def test_the_method_takes_an_expression_or_an_interval(report: Any) -> None:
    assert report.every("0 6 * * *", args=day_of, name="report-early") is report
    assert report.every(30, args=day_of) is report
    assert [(each.name, each.when) for each in schedules()] == [
        ("report-early", "0 6 * * *"),
        ("report", "every 0:00:30"),
    ]


def test_the_method_returns_what_it_is_called_on(sweep: Any) -> None:
    low = sweep.set(queue="low")
    assert low.every("@hourly", name="low") is low
    resize = faktory.external("Resize", queue="images")
    assert resize.every(30, args=lambda _: (1,)) is resize
    assert [last().payload(NOW)["queue"], schedules()[0].payload(NOW)["queue"]] == ["images", "low"]


def test_a_class_other_options_and_anothers_job_can_be_scheduled(sweep: Any) -> None:
    class Clean(faktory.Job):
        def perform(self) -> None: ...

    assert Clean.every("@daily") is Clean
    faktory.periodic("@hourly", sweep.set(queue="low"))
    faktory.periodic("@weekly", faktory.external("Resize", queue="images"), args=lambda _: (1,))
    jobs = [each.payload(each.next(NOW)) for each in schedules()]
    assert [(job["jobtype"], job["queue"], job["args"]) for job in jobs] == [
        ("Clean", "default", []),
        ("sweep", "low", []),
        ("Resize", "images", [1]),
    ]


# The job of a tick


def test_the_job_of_a_tick_is_the_same_everywhere(report: Any) -> None:
    job = report.set(queue="reports", retry=5, custom={"a": 1})
    faktory.periodic("0 2 * * *", job, tz="Europe/Berlin", args=day_of, name="nightly")
    assert last().payload(last().next(NOW)) == {
        "jid": "933cc037610cbae5154a0874",
        "jobtype": "report",
        "args": ["2026-03-01"],
        "queue": "reports",
        "retry": 5,
        "created_at": "2026-03-01T01:00:00Z",
        "at": "2026-03-01T01:00:00Z",
        "custom": {
            "a": 1,
            "faktory_schedule": "nightly",
            "faktory_tick": "2026-03-01T02:00:00+01:00",
        },
    }


def test_what_a_job_has_until_it_expires_counts_from_the_tick(sweep: Any) -> None:
    faktory.periodic("@hourly", sweep.set(expires_in=60))
    custom = last().payload(last().next(NOW))["custom"]
    assert custom["expires_at"] == "2026-03-01T01:01:00Z"
    assert "expires_in" not in custom


def test_what_a_job_has_until_it_expires_is_real_time_where_clocks_change(sweep: Any) -> None:
    faktory.periodic("30 2 * * *", sweep.set(expires_in=3600), tz="Europe/Berlin")
    tick = last().next(datetime(2026, 10, 24, 12, tzinfo=UTC))
    assert tick.isoformat() == "2026-10-25T02:30:00+02:00"
    assert last().payload(tick)["custom"]["expires_at"] == "2026-10-25T01:30:00Z"


def test_both_passes_of_an_hour_have_jobs_of_their_own(sweep: Any) -> None:
    faktory.periodic("*/30 * * * *", sweep, tz="Europe/Berlin")
    begin = datetime(2026, 10, 24, 23, 59, tzinfo=UTC)
    jobs = [last().payload(tick) for tick in last().ticks(begin, begin + timedelta(hours=2))]
    assert [job["custom"]["faktory_tick"] for job in jobs] == [
        "2026-10-25T02:00:00+02:00",
        "2026-10-25T02:30:00+02:00",
        "2026-10-25T02:00:00+01:00",
        "2026-10-25T02:30:00+01:00",
    ]
    assert len({job["jid"] for job in jobs}) == 4
    for job in jobs:
        tick = JobContext(job).tick
        assert tick is not None
        assert tick.isoformat() == job["custom"]["faktory_tick"]


def test_default_options_count_as_they_are_at_the_tick(
    sweep: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    faktory.periodic("@daily", sweep)
    before = last().payload(last().next(NOW))
    monkeypatch.setattr(faktory, "default_job_options", {"queue": "low", "retry": 3})
    after = last().payload(last().next(NOW))
    assert after == {**before, "queue": "low", "retry": 3}


def test_arguments_of_other_types_are_sent_as_a_push_sends_them() -> None:
    pytest.importorskip("msgspec")

    @faktory.job
    def on(day: date) -> None: ...

    faktory.periodic("@daily", on, args=lambda tick: (tick.date(),))
    assert last().payload(last().next(NOW))["args"] == ["2026-03-02"]


@pytest.mark.parametrize("returned", ["text", None, {1}, 7])
def test_arguments_are_a_tuple_or_a_list(report: Any, returned: object) -> None:
    faktory.periodic("@daily", report, args=lambda _: returned)
    with pytest.raises(TypeError, match=r"it must be a tuple or a list"):
        last().payload(last().next(NOW))


def test_what_json_cannot_hold_is_an_error_of_the_tick(report: Any) -> None:
    faktory.periodic("@daily", report, args=lambda _: (object(),))
    with pytest.raises((TypeError, FaktoryPayloadError)):
        last().payload(last().next(NOW))


def test_a_running_job_knows_its_tick_and_a_retry_keeps_it(sweep: Any) -> None:
    faktory.periodic("0 2 * * *", sweep, tz="Europe/Berlin")
    tick = last().next(NOW)
    payload = last().payload(tick)
    assert JobContext(payload).tick == tick
    failure = {"retry_count": 0, "failed_at": "2026-03-01T01:00:01Z", "remaining": 25}
    assert JobContext({**payload, "failure": failure}).tick == tick


@pytest.mark.parametrize(
    "custom",
    [None, {}, {"faktory_tick": 7}, {"faktory_tick": "soon"}, {"faktory_tick": "2026-01-01"}],
)
def test_an_ordinary_job_has_no_tick(custom: object) -> None:
    assert JobContext({"jid": "j", "jobtype": "t", "args": [], "custom": custom}).tick is None


# What is wrong where it is declared


@pytest.mark.parametrize(
    ("expression", "field"),
    [
        ("60 * * * *", "minute '60'"),
        ("* 24 * * *", "hour '24'"),
        ("* * 0 * *", "day of the month '0'"),
        ("* * 32 * *", "day of the month '32'"),
        ("* * * 13 *", "month '13'"),
        ("* * * foo *", "month 'foo'"),
        ("* * * * 8", "day of the week '8'"),
        ("* * L * *", "day of the month 'l'"),
        ("* * LW * *", "day of the month 'lw'"),
        ("* * * * mon#1", "day of the week 'mon#1'"),
        ("* * * * 5L", "day of the week '5l'"),
        ("*/0 * * * *", "step 0"),
        ("*/60 * * * *", "step 60"),
        ("5/15 * * * *", "5-59/15"),
        ("9-5 * * * *", "backwards"),
        ("1,,2 * * * *", "minute '1,,2'"),
        ("-1 * * * *", "minute '-1'"),
        ("\u0661 * * * *", "minute"),
        ("* * * *", "4 fields"),
        ("0 * * * * *", "6 fields"),
        ("", "0 fields"),
        ("@reboot", "@reboot"),
        ("@midnight", "@midnight"),
        ("0 0 30 2 *", "never occurs"),
        ("0 0 31 4,6 *", "never occurs"),
        pytest.param(f"{'9' * 5000} * * * *", "minute '999", id="long-number"),
        pytest.param(f"*/{'9' * 5000} * * * *", "minute '*/999", id="long-step"),
    ],
)
def test_a_wrong_expression_names_its_field(sweep: Any, expression: str, field: str) -> None:
    with pytest.raises(ValueError, match=r"expression|is wrong") as raised:
        faktory.periodic(expression, sweep)
    assert field in str(raised.value)
    assert schedules() == []


@pytest.mark.parametrize("alias", ["@hourly", "@daily", "@weekly", "@monthly", "@yearly"])
def test_names_stand_for_expressions(sweep: Any, alias: str) -> None:
    faktory.periodic(alias, sweep)
    assert last().when == alias
    assert last().next(NOW) > NOW


def test_without_the_extra_an_expression_is_an_error_with_the_remedy(
    sweep: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name == "cronsim":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"pip install 'faktory-worker\[cron\]'"):
        faktory.periodic("* * * * *", sweep)
    sweep.every(60)
    assert last().next(NOW) == NOW + timedelta(minutes=1)


class Nowhere(tzinfo):
    def utcoffset(self, _: datetime | None) -> None:
        return None


@pytest.mark.parametrize(
    ("tz", "kind", "text"),
    [
        ("Europe/Nowhere", ValueError, "pip install tzdata"),
        ("../etc/passwd", ValueError, "unknown zone"),
        ("", ValueError, "unknown zone"),
        (7, TypeError, "tz is 7"),
        (Nowhere(), ValueError, "naive"),
    ],
)
def test_a_wrong_zone(sweep: Any, tz: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        faktory.periodic("@daily", sweep, tz=tz)


def test_a_zone_may_be_an_object(sweep: Any) -> None:
    faktory.periodic("0 2 * * *", sweep, tz=ZoneInfo("Asia/Kathmandu"))
    assert last().next(NOW).isoformat() == "2026-03-02T02:00:00+05:45"


class LikePytz(tzinfo):
    """As pytz has them: by `replace` they have the offset of local mean time."""

    zone = "Europe/Berlin"

    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(minutes=53)


def test_a_zone_of_pytz_counts_by_its_name(sweep: Any) -> None:
    faktory.periodic("0 2 * * *", sweep, tz=LikePytz())
    assert last().next(NOW).isoformat() == "2026-03-01T02:00:00+01:00"


@pytest.mark.parametrize("every", [0, 9.9, -60, timedelta(seconds=9), 1e300, timedelta.max])
def test_an_interval_is_10_seconds_at_least(sweep: Any, every: Any) -> None:
    with pytest.raises(ValueError, match=r"every is .*10 seconds or more"):
        faktory.periodic(every=every, job=sweep)


@pytest.mark.parametrize("every", ["60", NOW.replace(tzinfo=None), True, float("nan")])
def test_an_interval_is_seconds_or_a_timedelta(sweep: Any, every: Any) -> None:
    with pytest.raises(FaktoryPayloadError, match="every is"):
        faktory.periodic(every=every, job=sweep)


def two(_: datetime, other: int = 1) -> tuple[int, ...]:
    return (other,)


async def later(_: datetime) -> tuple[int, ...]:
    return (1,)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("today",), "must be a function of the tick"),
        (lambda: ("x",), "must take the tick and nothing else"),
        (two, "must take the tick and nothing else"),
        (lambda *ticks: ticks, "must take the tick and nothing else"),
        (lambda *, tick: (tick,), "must take the tick and nothing else"),
        (later, "nothing awaits it"),
    ],
)
def test_arguments_are_a_function_of_the_tick_alone(report: Any, args: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        faktory.periodic("@daily", report, args=args)


class Days:
    def of(self, tick: datetime) -> list[str]:
        return day_of(tick)

    __call__ = of


@pytest.mark.parametrize("args", [Days(), Days().of, partial(day_of)])
def test_any_callable_that_takes_the_tick_will_do(
    report: Any, args: Callable[[datetime], list[str]]
) -> None:
    faktory.periodic("@daily", report, args=args)
    assert last().payload(last().next(NOW))["args"] == ["2026-03-02"]


def test_a_job_that_needs_arguments_needs_args(report: Any) -> None:
    with pytest.raises(TypeError, match=r"missing a required argument: 'day'.*Give args="):
        faktory.periodic("@daily", report)


@pytest.mark.parametrize(
    "options",
    [{"jid": "1234567890"}, {"at": NOW}, {"debounce": 60}, {"unique_for": 5}, {"track": True}],
)
def test_what_is_for_one_push_cannot_be_scheduled(sweep: Any, options: Any) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=rf"sweep has {name}=.*set\({name}=None\)"):
        faktory.periodic("@daily", sweep.set(**options))


def test_default_options_for_one_push_cannot_be_scheduled(
    sweep: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faktory, "default_job_options", {"unique_for": 60})
    with pytest.raises(ValueError, match=r"set\(unique_for=None\)"):
        faktory.periodic("@daily", sweep)
    faktory.periodic("@daily", sweep.set(unique_for=None))
    assert "unique_for" not in last().payload(last().next(NOW))["custom"]


def test_default_options_for_one_push_are_found_when_they_come_later(
    sweep: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    faktory.periodic("@daily", sweep)
    faktory.periodic("@daily", sweep.set(unique_for=None), name="without")
    with_defaults, without = schedules()
    monkeypatch.setattr(faktory, "default_job_options", {"unique_for": 60})
    with pytest.raises(ValueError, match=r"sweep has unique_for=60 .*set\(unique_for=None\)"):
        with_defaults.payload(NOW)
    assert without.payload(NOW)["jobtype"] == "sweep"


def test_an_instance_of_a_class_cannot_be_scheduled() -> None:
    class Clean(faktory.Job):
        def perform(self) -> None: ...

    with pytest.raises(TypeError, match=r"Clean object.* is an instance.*pass the class, Clean"):
        faktory.periodic("@daily", Clean())  # type: ignore[type-var]
    assert schedules() == []


def test_a_pool_of_its_own_cannot_be_scheduled(sweep: Any) -> None:
    elsewhere = sweep.set(pool=faktory.Pool("tcp://localhost:1"))
    with pytest.raises(ValueError, match=r"leave out set\(pool=...\)"):
        faktory.periodic("@daily", elsewhere)


def test_only_declared_jobs_can_be_scheduled(sweep: Any) -> None:
    def plain() -> None: ...

    with pytest.raises(TypeError, match=r"put @faktory.periodic above @faktory.job"):
        faktory.periodic("@daily")(plain)
    with pytest.raises(TypeError, match="needs an expression or every="):
        faktory.periodic(job=sweep)
    with pytest.raises(TypeError, match="A job comes second"):
        faktory.periodic(sweep)


def test_a_name_twice_is_an_error_that_says_where_both_are(sweep: Any) -> None:
    faktory.periodic("@daily", sweep)
    with pytest.raises(ValueError, match=r"'sweep' is declared twice: at .*test_periodic.py:\d+, "):
        faktory.periodic("@hourly", sweep)
    with pytest.raises(ValueError, match="Give one of them another name="):
        faktory.periodic("@daily", sweep)
    assert len(schedules()) == 1


def test_the_same_declaration_again_replaces_the_first(sweep: Any) -> None:
    for _ in range(2):
        faktory.periodic("@daily", sweep)
    assert len(schedules()) == 1
    taken = 0
    for expression in ("@hourly", "@daily"):
        try:
            faktory.periodic(expression, sweep, name="other")
        except ValueError:
            taken += 1
    assert taken == 1


APP = """
import faktory

@faktory.periodic("@daily")
@faktory.job
def sweep() -> None: ...

if __name__ == "__main__":
    import app
    from faktory.jobs.ticks import schedules
    assert app.sweep is not sweep
    print(len(schedules()))
"""


@pytest.mark.parametrize("command", [["app.py"], ["./app.py"], ["linked.py"], ["-m", "app"]])
def test_a_program_that_imports_itself_declares_its_schedules_once(
    tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "linked.py").symlink_to(tmp_path / "app.py")
    paths = [str(tmp_path), *sys.path]
    code = f"import sys; sys.path = {paths!r}; import runpy; "
    if command[0] == "-m":
        code += "runpy.run_module('app', run_name='__main__', alter_sys=True)"
    else:
        code += f"runpy.run_path({command[0]!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_a_module_that_is_reloaded_declares_its_schedules_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "periodic_app.py").write_text(APP)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        app = importlib.import_module("periodic_app")
        first = last()
        importlib.reload(app)
    finally:
        sys.modules.pop("periodic_app", None)
    assert len(schedules()) == 1
    assert last() is not first


def test_a_module_that_is_reloaded_may_have_moved_and_changed_its_schedules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "periodic_moved.py"
    file.write_text(APP)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    try:
        app = importlib.import_module("periodic_moved")
        file.write_text("# one line more\n" + APP)
        importlib.reload(app)
        assert last().place.endswith("periodic_moved.py:5")
        changed = APP.replace("@daily", "@hourly")
        file.write_text(changed + "\n")
        importlib.reload(app)
        assert [each.when for each in schedules()] == ["@hourly"]
        file.write_text(changed + "\n\nfaktory.periodic('@daily', sweep)")
        with pytest.raises(ValueError, match=r"'sweep' is declared twice: at .*:4, and at .*:15"):
            importlib.reload(app)
    finally:
        sys.modules.pop("periodic_moved", None)


def test_at_a_prompt_a_schedule_is_declared_again_as_a_function_is() -> None:
    lines = """
import faktory
from faktory.jobs.ticks import schedules
faktory.job(lambda: None, name="a").every("@daily")
faktory.job(lambda: None, name="a").every("@hourly")
print([each.when for each in schedules()])
"""
    done = subprocess.run([sys.executable, "-i", "-q"], input=lines, capture_output=True, text=True)
    assert "['@hourly']" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["", 7, "two\nlines"])
def test_a_name_is_one_line_of_text(sweep: Any, name: Any) -> None:
    with pytest.raises(ValueError, match="the name is"):
        faktory.periodic("@daily", sweep, name=name)


def test_a_naive_moment_is_an_error(sweep: Any) -> None:
    faktory.periodic("@daily", sweep)
    for call in (last().next, last().ticks):
        with pytest.raises(ValueError, match="naive"):
            call(NOW.replace(tzinfo=None))


def test_ticks_end_with_the_calendar(sweep: Any) -> None:
    faktory.periodic("@yearly", sweep)
    sweep.every(timedelta(days=1000), name="rare")
    for each in schedules():
        with pytest.raises(ValueError, match="has no tick after"):
            each.next(datetime(9999, 12, 31, tzinfo=UTC))


def test_a_job_is_pickled_without_its_schedules() -> None:
    assert pickle.loads(pickle.dumps(scheduled)) is scheduled


@faktory.job
def scheduled() -> None: ...
