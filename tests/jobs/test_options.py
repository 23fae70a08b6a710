from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import faktory
from faktory.exceptions import FaktoryPayloadError
from faktory.jobs import Next, registry
from faktory.jobs import options as options_module
from faktory.jobs.options import NAMES, Defaults, check, merge, to_wire

from .support import FakeServer

customs = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3) | st.lists(inner),
    max_leaves=8,
)
options = st.fixed_dictionaries({}, optional={"queue": st.text(), "custom": customs})


def test_every_option_is_accepted() -> None:
    check(dict.fromkeys(NAMES), "here")


@pytest.mark.parametrize(
    ("name", "closest"),
    [("retries", "retry"), ("reserve", "reserve_for"), ("expire_in", "expires_in")],
)
def test_an_unknown_option_is_refused_with_the_closest_name(name: str, closest: str) -> None:
    with pytest.raises(TypeError) as caught:
        check({name: 1}, "@faktory.job")
    assert str(caught.value) == f"@faktory.job has no option {name!r}. Did you mean {closest!r}?"


def test_an_unknown_option_unlike_any_other_is_refused_with_all_names() -> None:
    with pytest.raises(TypeError, match=r"no option 'xyzzy'\. There are \['backtrace', 'custom'"):
        check({"xyzzy": 1}, "@faktory.job")


def test_later_options_win() -> None:
    assert merge({"queue": "a", "retry": 1}, {"queue": "b"}) == {"queue": "b", "retry": 1}


def test_custom_is_merged_at_every_depth() -> None:
    base = {"custom": {"a": {"x": 1, "y": [1]}, "b": 1}}
    over = {"custom": {"a": {"y": [2], "z": 3}, "c": 4}}
    assert merge(base, over) == {
        "custom": {"a": {"x": 1, "y": [2], "z": 3}, "b": 1, "c": 4},
    }


def test_values_that_are_not_dicts_are_replaced() -> None:
    assert merge({"custom": {"a": 1}}, {"custom": None}) == {"custom": None}
    assert merge({"custom": None}, {"custom": {"a": 1}}) == {"custom": {"a": 1}}


def test_any_mapping_becomes_a_dict() -> None:
    frozen = MappingProxyType({"a": MappingProxyType({"b": 1})})
    merged = merge({}, {"custom": frozen})
    assert merged == {"custom": {"a": {"b": 1}}}
    assert type(merged["custom"]) is type(merged["custom"]["a"]) is dict


def containers(value: Any) -> set[int]:
    """Return the identities of all dicts and lists in a value."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = {id(value)} if isinstance(value, (dict, list)) else set()
    return own.union(*map(containers, inner))


@given(options, options)
def test_merged_options_share_nothing_with_their_sources(
    base: dict[str, Any], over: dict[str, Any]
) -> None:
    assert not containers(merge(base, over)) & (containers(base) | containers(over))


@given(options)
def test_each_jobs_fields_share_nothing_with_the_options(declared: dict[str, Any]) -> None:
    assert not containers(to_wire(declared)) & containers(declared)
    assert to_wire(declared) == declared


def test_enterprise_options_are_sent_in_custom() -> None:
    declared = {
        "queue": "q",
        "custom": {"a": 1, "unique_for": 1},
        "unique_for": timedelta(minutes=1),
        "unique_until": "start",
        "expires_in": 3600.9,
        "track": True,
    }
    assert to_wire(declared) == {
        "queue": "q",
        "custom": {
            "a": 1,
            "unique_for": 60,
            "unique_until": "start",
            "expires_in": 3600,
            "track": 1,
        },
    }


def test_options_that_are_none_make_no_custom() -> None:
    assert to_wire({"unique_for": None, "track": None}) == {}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("unique_for", 0),
        ("unique_for", True),
        ("unique_for", "60"),
        ("expires_in", -1),
        ("expires_in", float("nan")),
        ("expires_in", timedelta(milliseconds=1)),
        ("unique_until", "end"),
    ],
)
def test_a_wrong_enterprise_option_is_refused_by_name(option: str, value: object) -> None:
    with pytest.raises(FaktoryPayloadError, match=option):
        to_wire({option: value})


def test_track_is_sent_as_1_and_is_left_out_when_off() -> None:
    assert to_wire({"track": True}) == {"custom": {"track": 1}}
    assert to_wire({"track": False, "custom": {"a": 1}}) == {"custom": {"a": 1}}
    assert to_wire({"track": False}) == {}
    assert to_wire({"track": 0}) == {}


LATER = datetime(2100, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    "when",
    [
        LATER,
        LATER.astimezone(timezone(timedelta(hours=5))),
        "2100-01-02T03:04:05Z",
        LATER.timestamp(),
    ],
)
def test_a_job_may_expire_at_a_point_in_time(when: Any) -> None:
    assert to_wire({"expires_at": when}) == {"custom": {"expires_at": "2100-01-02T03:04:05Z"}}


@pytest.mark.parametrize(
    ("when", "remedy"),
    [
        (datetime(2100, 1, 2), "astimezone"),
        ("2100-01-02T03:04:05", "offset"),
        ("tomorrow", "RFC 3339"),
        (timedelta(hours=1), "aware datetime"),
        (True, "aware datetime"),
        (float("nan"), "no time"),
    ],
)
def test_a_wrong_time_of_expiry_is_refused(when: Any, remedy: str) -> None:
    with pytest.raises(FaktoryPayloadError, match=f"expires_at is .*{remedy}"):
        to_wire({"expires_at": when})


def test_a_job_expires_in_one_way_only() -> None:
    with pytest.raises(FaktoryPayloadError, match="give one of them"):
        to_wire({"expires_in": 60, "expires_at": LATER})
    assert to_wire({"expires_in": None, "expires_at": LATER})["custom"].keys() == {"expires_at"}


# Default options


def fields(server: FakeServer) -> dict[str, Any]:
    """Push a job without options; return the fields that the defaults set."""
    faktory.external("work").perform_async()
    return {name: server.jobs[-1].get(name) for name in ("queue", "retry", "custom")}


PLAIN = {"queue": "default", "retry": 25, "custom": None}


def test_defaults_count_for_options_that_a_job_does_not_set(server: FakeServer) -> None:
    faktory.default_job_options.update(queue="a", retry=1, reserve_for=60)
    declared = faktory.external("work", queue="b")
    faktory.external("work").perform_async()
    declared.perform_async()
    declared.set(queue="c").perform_async()
    declared.set(queue="c").perform_bulk([()])
    assert [job["queue"] for job in server.jobs] == ["a", "b", "c", "c"]
    assert {(job["retry"], job["reserve_for"]) for job in server.jobs} == {(1, 60)}


def test_defaults_add_to_the_options_of_a_class(server: FakeServer) -> None:
    class Base(faktory.Job):
        faktory_options = {"queue": "base"}

    class Work(Base):
        def perform(self) -> None: ...

    faktory.default_job_options.update(queue="a", retry=1)
    Work.perform_async()
    assert (server.jobs[0]["queue"], server.jobs[0]["retry"]) == ("base", 1)


def test_custom_values_of_defaults_declaration_and_set_are_merged_at_every_depth(
    server: FakeServer,
) -> None:
    faktory.default_job_options["custom"] = {"a": {"x": 0, "y": 0, "z": 0}, "b": 0}
    job = faktory.external("work", custom={"a": {"y": 1, "z": 1}})
    job.set(custom={"a": {"z": 2}, "c": 2}).perform_async()
    job.perform_async()
    assert server.jobs[0]["custom"] == {"a": {"x": 0, "y": 1, "z": 2}, "b": 0, "c": 2}
    assert server.jobs[1]["custom"] == {"a": {"x": 0, "y": 1, "z": 1}, "b": 0}
    assert faktory.default_job_options == {"custom": {"a": {"x": 0, "y": 0, "z": 0}, "b": 0}}


def test_changed_defaults_count_for_later_pushes(
    server: FakeServer,
) -> None:
    @faktory.job
    def work() -> None: ...

    def queues() -> tuple[str, str]:
        work.perform_async()
        work.perform_bulk([()])
        return server.jobs[-2]["queue"], server.jobs[-1]["queue"]

    assert queues() == ("default", "default")
    faktory.default_job_options["queue"] = "a"
    assert queues() == ("a", "a")
    faktory.default_job_options.update({"queue": "b"})
    assert queues() == ("b", "b")
    faktory.default_job_options = {"queue": "c"}
    assert queues() == ("c", "c")
    del faktory.default_job_options["queue"]
    assert queues() == ("default", "default")
    faktory.default_job_options.setdefault("queue", "d")
    assert queues() == ("d", "d")
    faktory.default_job_options.clear()
    assert queues() == ("default", "default")


def test_defaults_may_be_assigned_and_replace_those_before(server: FakeServer) -> None:
    faktory.default_job_options["retry"] = 1
    given = {"queue": "a", "custom": {"x": [1]}}
    faktory.default_job_options = given
    given["queue"] = "changed"
    given["custom"]["x"].append(2)  # type: ignore[index]
    assert fields(server) == {"queue": "a", "retry": 25, "custom": {"x": [1]}}
    assert isinstance(faktory.default_job_options, Defaults)
    assert faktory.default_job_options is options_module.default_job_options


def test_patched_defaults_are_restored(server: FakeServer) -> None:
    faktory.default_job_options["queue"] = "a"
    before = faktory.default_job_options
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faktory, "default_job_options", {"queue": "patched"})
        assert fields(server)["queue"] == "patched"
        patch.setitem(faktory.default_job_options, "retry", 7)
        assert fields(server)["retry"] == 7
    assert faktory.default_job_options is before
    assert fields(server) == {**PLAIN, "queue": "a"}


def test_an_unknown_default_is_refused_and_changes_nothing(server: FakeServer) -> None:
    defaults = faktory.default_job_options
    message = r"faktory\.default_job_options has no option 'retrys'\. Did you mean 'retry'\?"
    with pytest.raises(TypeError, match=message):
        defaults["retrys"] = 1
    with pytest.raises(TypeError, match=message):
        defaults.update(retrys=1)
    with pytest.raises(TypeError, match=message):
        faktory.default_job_options = {"retrys": 1}
    with pytest.raises(TypeError, match="has no option 'name'"):
        defaults["name"] = "work"
    assert faktory.default_job_options is defaults
    assert fields(server) == PLAIN


def test_values_read_from_the_defaults_cannot_be_changed_in_place(server: FakeServer) -> None:
    custom = {"a": 1, "inner": {"b": 1}, "list": [1]}
    faktory.default_job_options["custom"] = custom
    read = faktory.default_job_options["custom"]
    with pytest.raises(TypeError):
        read["a"] = 2
    with pytest.raises(TypeError):
        read["inner"]["b"] = 2
    read["list"].append(2)
    custom["inner"]["b"] = 3  # type: ignore[index]
    assert fields(server)["custom"] == {"a": 1, "inner": {"b": 1}, "list": [1]}


def test_defaults_read_like_a_dict() -> None:
    faktory.default_job_options = {"queue": "a", "custom": {"b": {"c": 1}}}
    defaults = faktory.default_job_options
    assert dict(defaults) == {"queue": "a", "custom": {"b": {"c": 1}}}
    assert repr(defaults) == "{'queue': 'a', 'custom': {'b': {'c': 1}}}"
    assert (len(defaults), list(defaults), defaults.get("retry")) == (2, ["queue", "custom"], None)
    with pytest.raises(KeyError):
        defaults["retry"]
    with pytest.raises(KeyError):
        del defaults["retry"]


def test_a_default_may_be_undone_by_none(server: FakeServer) -> None:
    faktory.default_job_options.update(unique_for=60, expires_in=60, track=True)
    job = faktory.external("work").set(unique_for=None, expires_in=None, track=False)
    job.perform_async()
    assert "custom" not in server.jobs[0]


def test_a_wrong_default_is_refused_where_it_is_set(server: FakeServer) -> None:
    faktory.default_job_options = {"queue": "a", "expires_in": 5}
    for name, value in (("queue", "a b"), ("retry", "3"), ("expires_at", "2100-01-02T03:04:05Z")):
        with pytest.raises(FaktoryPayloadError, match=f"faktory.default_job_options: .*{name}"):
            faktory.default_job_options[name] = value
    wrong: Any
    for wrong in (5, None, [("queue", "a")]):
        with pytest.raises(TypeError, match="it must be a dict"):
            faktory.default_job_options = wrong
    assert dict(faktory.default_job_options) == {"queue": "a", "expires_in": 5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retry": "3"}, "retry is '3'"),
        ({"queue": "a b"}, "queue is 'a b'"),
        ({"reserve_for": "1h"}, "reserve_for is '1h'"),
        ({"backtrace": True}, "backtrace is True"),
        ({"custom": [1]}, "custom is"),
        ({"custom": {"at": datetime.now(UTC)}}, r'custom\["at"\] is a datetime'),
        ({"unique_until": "end"}, "unique_until is 'end'"),
        ({"expires_in": 0}, "expires_in is 0"),
    ],
)
def test_a_wrong_option_is_refused_where_it_is_given(options: dict[str, Any], message: str) -> None:
    external = faktory.external("work")
    declare: list[Callable[[], object]] = [
        lambda: faktory.job(name="work", **options)(lambda: None),
        lambda: faktory.external("work", **options),
        lambda: external.set(**options),
        lambda: type("work", (Worked, faktory.Job), {"faktory_options": options}),
    ]
    for each in declare:
        with pytest.raises(FaktoryPayloadError, match=f"the job 'work': {message}"):
            each()
    assert registry.names() == []


class Worked:
    def perform(self) -> None: ...


def test_an_option_that_is_none_counts_as_not_given(server: FakeServer) -> None:
    @faktory.client_middleware.add
    def tenant(payload: dict[str, Any], call_next: Next) -> Any:
        payload.setdefault("custom", {})["tenant"] = 7
        return call_next()

    job = faktory.external("work", queue="images", retry=3, custom={"a": 1}, reserve_for=60)
    nothing: dict[str, Any] = dict.fromkeys(NAMES)
    job.set(**nothing).perform_async()
    (pushed,) = server.jobs
    del pushed["jid"]
    assert pushed == {
        "jobtype": "work",
        "args": [],
        "queue": "default",
        "retry": 25,
        "custom": {"tenant": 7},
    }


# Time limits


def limits(server: FakeServer) -> list[Any]:
    """Return the time limits that the jobs were pushed with; None for none."""
    return [(job.get("custom") or {}).get("time_limit") for job in server.jobs]


@pytest.mark.parametrize(("limit", "seconds"), [(90, 90), (0.5, 0.5), (timedelta(minutes=1), 60.0)])
def test_a_time_limit_goes_with_the_job_in_seconds(
    server: FakeServer, limit: Any, seconds: float
) -> None:
    job = faktory.external("work", custom={"a": 1})
    job.set(time_limit=limit).perform_async()
    job.set(time_limit=limit).perform_bulk([()])
    faktory.external("work", time_limit=limit, custom={"a": 1}).perform_async()
    assert [each["custom"] for each in server.jobs] == [{"a": 1, "time_limit": seconds}] * 3


def test_the_limit_of_a_declaration_stays_there_and_hides_that_of_the_defaults(
    server: FakeServer,
) -> None:
    @faktory.job(time_limit=30)
    def limited() -> None: ...

    class Limited(faktory.Job):
        faktory_options = {"time_limit": 30}

        def perform(self) -> None: ...

    class Below(Limited):
        faktory_options = {"queue": "low"}

    faktory.default_job_options["time_limit"] = 60
    for job in (limited, Limited, Below):
        job.perform_async()
        job.set(queue="a").perform_async()
        job.set(time_limit=None).perform_async()
        job.set(time_limit=5).perform_async()
        job.perform_bulk([()])
    assert limits(server) == [None, None, None, 5, None] * 3


def test_the_limit_of_the_defaults_goes_with_jobs_that_declare_none(server: FakeServer) -> None:
    @faktory.job
    def plain() -> None: ...

    faktory.default_job_options["time_limit"] = timedelta(minutes=1)
    plain.perform_async()
    faktory.external("work").perform_async()
    plain.set(time_limit=5).perform_async()
    plain.set(time_limit=None).perform_async()
    faktory.default_job_options["time_limit"] = None
    plain.perform_async()
    assert limits(server) == [60, 60, 5, None, None]


@pytest.mark.parametrize(
    "wrong", [0, -1, True, "30", float("nan"), float("inf"), 10**7, timedelta(0)]
)
def test_a_wrong_time_limit_is_refused_where_it_is_given(wrong: Any) -> None:
    @faktory.job
    def work() -> None: ...

    with pytest.raises(FaktoryPayloadError, match="'work': time_limit is"):
        work.set(time_limit=wrong)
    with pytest.raises(FaktoryPayloadError, match="default_job_options: time_limit is"):
        faktory.default_job_options["time_limit"] = wrong
    with pytest.raises(FaktoryPayloadError, match="time_limit is"):
        faktory.job(time_limit=wrong)


def test_the_key_of_chains_is_refused_where_it_is_set() -> None:
    work = faktory.external("Convert")
    custom = {"faktory_chain": []}
    remedy = r"custom has 'faktory_chain', .*: take another name, or faktory\.chain\(\.\.\.\)"
    with pytest.raises(FaktoryPayloadError, match=remedy):
        work.set(custom=custom)
    with pytest.raises(FaktoryPayloadError, match=remedy):
        faktory.external("Convert", custom=custom)
    with pytest.raises(FaktoryPayloadError, match=remedy):
        faktory.default_job_options = {"custom": custom}
    work.set(custom={"chain": []})


MISSPELT = [
    ({"retryon": ValueError}, "'retryon'. Did you mean 'retry_on'?"),
    ({"backof": lambda attempt: 1}, "'backof'. Did you mean 'backoff'?"),
    ({"discardon": ValueError}, "'discardon'. Did you mean 'discard_on'?"),
    ({"on_exhausted": print}, "'on_exhausted': it is a decorator"),
]


@pytest.mark.parametrize(("options", "hint"), MISSPELT)
def test_a_misspelt_option_of_a_declaration_gets_its_name(
    options: dict[str, Any], hint: str
) -> None:
    with pytest.raises(TypeError) as of_function:
        faktory.job(**options)
    assert f"@faktory.job has no option {hint}" in str(of_function.value)
    with pytest.raises(TypeError) as of_class:
        type("Work", (faktory.Job,), {"faktory_options": options, "perform": lambda self: None})
    assert f"Work.faktory_options has no option {hint}" in str(of_class.value)
    if "on_exhausted" in options:
        assert "@job.on_exhausted" in str(of_function.value)


def test_a_misspelt_option_of_a_push_gets_its_name() -> None:
    with pytest.raises(TypeError, match=r"Convert\.set\(\) .*Did you mean 'debounce'\?"):
        faktory.external("Convert").set(debounse=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"There are \['at', 'backtrace'"):
        faktory.external("Convert").set(xyzzy=3)  # type: ignore[call-arg]
