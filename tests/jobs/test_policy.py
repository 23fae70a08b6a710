"""What a job declares of its failures, its handlers of them, and what Retry takes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import datetime, timedelta
from math import inf, nan
from typing import Any

import pytest

import faktory
from faktory import Retry, Shutdown, TimeLimitExceeded, backoff
from faktory.exceptions import MAX_DELAY, FaktoryPayloadError
from faktory.jobs import registry
from faktory.jobs.context import JobContext
from faktory.jobs.retries import Policy, take_policy

from .support import FakeServer


class NotFound(Exception):
    pass


def test_a_function_declares_its_policy() -> None:
    wait = backoff.constant(30)

    @faktory.job(retry=5, retry_on=(ConnectionError,), discard_on=(NotFound,), backoff=wait)
    def sync() -> None: ...

    assert sync.policy == Policy((ConnectionError,), (NotFound,), wait)
    assert registry.find("sync") is sync


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        ({}, None),
        ({"retry_on": None, "discard_on": None, "backoff": None}, None),
        ({"discard_on": ()}, None),
        ({"retry_on": OSError}, Policy((OSError,), (), None)),
        ({"retry_on": [OSError, KeyError]}, Policy((OSError, KeyError), (), None)),
        ({"discard_on": {TimeLimitExceeded}}, Policy(None, (TimeLimitExceeded,), None)),
        ({"retry_on": (OSError, Shutdown)}, Policy((OSError, Shutdown), (), None)),
        ({"backoff": int}, Policy(None, (), int)),
    ],
)
def test_a_policy_is_made_of_what_is_declared(
    options: dict[str, Any], policy: Policy | None
) -> None:
    @faktory.job(**options)
    def sync() -> None: ...

    assert sync.policy == policy


def test_a_class_inherits_the_policy_of_its_bases() -> None:
    class Base(faktory.Job):
        faktory_options = {"retry_on": OSError, "backoff": backoff.constant(30)}

    class Sync(Base):
        faktory_options = {"discard_on": [NotFound], "backoff": None}

        def perform(self) -> None: ...

    class Other(faktory.Job):
        def perform(self) -> None: ...

    found, other = registry.find("Sync"), registry.find("Other")
    assert found is not None
    assert other is not None
    assert found.policy == Policy((OSError,), (NotFound,), None)
    assert other.policy is None


def uncalled(attempt: int, account: str) -> float:
    return 0


async def asynchronous(attempt: int) -> float:
    return 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"retry_on": "ConnectionError"},
            "retry_on has 'ConnectionError': it must be a class",
        ),
        (
            {"retry_on": ("OSError",)},
            r"retry_on has 'OSError': .*like retry_on=\(",
        ),
        ({"retry_on": (OSError, int)}, "retry_on has <class 'int'>"),
        ({"retry_on": OSError("x")}, r"retry_on has OSError\('x'\) \(OSError\)"),
        ({"retry_on": ((OSError,), KeyError)}, "retry_on has .* class of exceptions"),
        ({"retry_on": 5}, "retry_on has 5"),
        ({"retry_on": ()}, "retry_on is empty.*retry=-1"),
        ({"discard_on": "NotFound"}, "discard_on has 'NotFound'"),
        ({"discard_on": (Shutdown,)}, "discard_on has Shutdown.*always tried again"),
        ({"backoff": 30}, r"backoff is 30 \(int\): .*faktory.backoff.constant\(30\)"),
        ({"backoff": timedelta(minutes=1)}, "backoff is .*timedelta.*constant"),
        ({"backoff": "exponential"}, "backoff is 'exponential'"),
        (
            {"backoff": backoff.exponential},
            r"itself: call it, like .*exponential\(30\)",
        ),
        ({"backoff": lambda: 30}, r"too many positional.*lambda attempt: 30 \* attempt"),
        ({"backoff": uncalled}, "missing a required argument: 'account'"),
        ({"backoff": asynchronous}, "backoff is an async function, and nothing awaits it"),
    ],
)
def test_what_cannot_be_a_policy_is_refused_where_it_is_declared(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        faktory.job(**options)
    with pytest.raises(TypeError, match=message):
        type("Base", (faktory.Job,), {"faktory_options": options})
    assert registry.names() == []


@pytest.mark.parametrize("wait", [functools.partial(max, 3), backoff.linear(3), lambda n, x=1: n])
def test_any_callable_of_a_number_is_a_backoff(wait: Callable[[int], float]) -> None:
    assert take_policy({"backoff": wait}) == Policy(None, (), wait)


@pytest.mark.parametrize("name", ["retry_on", "discard_on", "backoff"])
def test_a_policy_is_not_part_of_a_push(name: str) -> None:
    @faktory.job
    def sync() -> None: ...

    remedy = f"cannot have {name}, which is not part of a pushed job: .* @faktory.job"
    with pytest.raises(TypeError, match=remedy):
        sync.set(**{name: None})
    with pytest.raises(TypeError, match=remedy):
        faktory.external("Other", **{name: None})
    with pytest.raises(TypeError, match=remedy):
        faktory.default_job_options[name] = None


def test_a_policy_is_not_on_the_wire(server: FakeServer) -> None:
    @faktory.job(retry_on=OSError, discard_on=KeyError, backoff=backoff.constant(30))
    def sync() -> None: ...

    class Sync(faktory.Job):
        faktory_options = {"retry_on": OSError, "backoff": backoff.constant(30)}

        def perform(self) -> None: ...

    sync.perform_async()
    sync.set(queue="low").perform_async()
    sync.perform_bulk([()])
    Sync.perform_async()
    assert len(server.jobs) == 4
    for pushed in server.jobs:
        assert pushed.keys() <= {"jid", "jobtype", "args", "queue", "retry", "created_at"}


# The handlers of one job.


def test_on_exhausted_registers_a_handler_and_returns_it() -> None:
    @faktory.job
    def sync() -> None: ...

    @sync.on_exhausted
    def gave_up(job: JobContext, error: BaseException) -> None: ...

    @faktory.job
    def other() -> None: ...

    assert sync.exhausted_handlers == [gave_up]
    assert other.exhausted_handlers == []


def test_the_handlers_of_a_class_are_those_of_its_bases_too() -> None:
    class Base(faktory.Job):
        pass

    class One(Base):
        def perform(self) -> None: ...

    class Two(One):
        pass

    names: dict[str, Callable[..., None]] = {
        each.__name__: each.on_exhausted(lambda job, error: None) for each in (Two, One, Base)
    }
    one, two = registry.find("One"), registry.find("Two")
    assert one is not None
    assert two is not None
    assert list(one.exhausted_handlers) == [names["Base"], names["One"]]
    assert list(two.exhausted_handlers) == [names["Base"], names["One"], names["Two"]]
    with pytest.raises(TypeError, match=r'faktory.on\("exhausted"'):
        faktory.Job.on_exhausted(lambda job, error: None)


async def handler(job: JobContext, error: BaseException) -> None: ...


@pytest.mark.parametrize(
    ("wrong", "message"), [(None, "not callable"), (handler, "async function.*plain function")]
)
def test_a_handler_that_cannot_be_called_is_refused(wrong: Any, message: str) -> None:
    @faktory.job
    def sync() -> None: ...

    with pytest.raises(TypeError, match=message):
        sync.on_exhausted(wrong)
    assert sync.exhausted_handlers == []


# Retry itself.


@pytest.mark.parametrize(
    ("after", "seconds"),
    [
        (None, None),
        (60, 60),
        (0, 0),
        (1.5, 1.5),
        (timedelta(minutes=1), 60),
        (MAX_DELAY, MAX_DELAY),
    ],
)
def test_retry_keeps_its_wait_in_seconds(after: Any, seconds: float | None) -> None:
    error = Retry("rate limited", after=after)
    assert (str(error), error.after, error.count) == ("rate limited", seconds, True)
    assert Retry("x", count=False).count is False


@pytest.mark.parametrize(
    "after",
    [-1, -0.001, nan, inf, True, "60", [60], timedelta(-1), MAX_DELAY + 1, datetime(2026, 1, 2)],
)
def test_a_wrong_wait_is_refused_where_retry_is_made(after: Any) -> None:
    with pytest.raises(FaktoryPayloadError, match=r"after is .*: pass seconds, or a timedelta"):
        Retry("rate limited", after=after)


@pytest.mark.parametrize("count", [0, 1, 3, None, "no"])
def test_a_count_that_is_not_a_bool_is_refused(count: Any) -> None:
    with pytest.raises(FaktoryPayloadError, match=r"count is .* uses up no attempt"):
        Retry("rate limited", count=count)


@pytest.mark.parametrize("message", [60, 1.5, timedelta(minutes=1)])
def test_a_wait_in_the_place_of_the_reason_is_refused(message: Any) -> None:
    with pytest.raises(FaktoryPayloadError, match=r'Retry\("rate limited", after='):
        Retry(message)
