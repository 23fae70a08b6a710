from __future__ import annotations

import copy
import pickle
from datetime import timedelta

import pytest

import faktory
from faktory import exceptions
from faktory.exceptions import (
    Discard,
    FaktoryAuthenticationError,
    FaktoryBulkError,
    FaktoryConnectionError,
    FaktoryConnectionResetError,
    FaktoryEnterpriseRequired,
    FaktoryError,
    FaktoryHandshakeError,
    FaktoryJSONError,
    FaktoryNotUnique,
    FaktoryOutcomeUnknown,
    FaktoryPayloadError,
    FaktoryProtocolError,
    FaktoryServerError,
    FaktoryTimeout,
    Retry,
    Shutdown,
    TimeLimitExceeded,
)


@pytest.mark.parametrize(
    ("kind", "bases"),
    [
        (FaktoryError, {Exception}),
        (FaktoryPayloadError, {FaktoryError, TypeError, ValueError}),
        (FaktoryConnectionError, {FaktoryError, ConnectionError}),
        (FaktoryHandshakeError, {FaktoryConnectionError}),
        (FaktoryAuthenticationError, {FaktoryConnectionError}),
        (FaktoryConnectionResetError, {FaktoryConnectionError, ConnectionResetError}),
        (FaktoryTimeout, {FaktoryConnectionError, TimeoutError}),
        (FaktoryOutcomeUnknown, {FaktoryConnectionError}),
        (FaktoryProtocolError, {FaktoryError}),
        (FaktoryServerError, {FaktoryError}),
        (FaktoryNotUnique, {FaktoryServerError}),
        (FaktoryEnterpriseRequired, {FaktoryServerError}),
        (FaktoryJSONError, {FaktoryError, ValueError}),
        (FaktoryBulkError, {FaktoryError}),
        (Shutdown, {BaseException}),
        (TimeLimitExceeded, {BaseException}),
        (Discard, {Exception}),
        (Retry, {Exception}),
    ],
)
def test_an_exception_has_these_bases(kind, bases):
    assert set(kind.__bases__) == bases
    assert kind.__name__ in exceptions.__all__
    assert getattr(faktory, kind.__name__) is kind


def test_every_exception_is_exported_and_documented():
    kinds = {
        name
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    assert kinds == set(exceptions.__all__)
    for name in kinds:
        assert f" {name}" in exceptions.__doc__


def test_except_exception_does_not_catch_shutdown_and_the_time_limit():
    assert not issubclass(Shutdown, Exception)
    assert not issubclass(TimeLimitExceeded, Exception)
    assert str(Shutdown()) == "the worker stopped before the job was done"
    assert str(TimeLimitExceeded()) == "the job took longer than its time limit"


ERRORS = [
    *[getattr(exceptions, name)("some text") for name in exceptions.__all__],
    *[getattr(exceptions, name)() for name in exceptions.__all__],
    FaktoryOutcomeUnknown("text", ["a", "b"]),
    FaktoryJSONError("text", "a", b"{"),
    FaktoryServerError("ERR no such thing"),
    FaktoryNotUnique("NOTUNIQUE Job not unique"),
    FaktoryBulkError("text", ["a"], {"b": "why"}, ["c"], ["d"]),
    Retry("text", after=timedelta(minutes=1), count=False),
]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize(
    "through",
    [
        copy.copy,
        copy.deepcopy,
        *[
            lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol))
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
        ],
    ],
)
def test_an_error_survives_pickle_and_copy_with_its_text_and_attributes(error, through):
    error.seen_by = ["a handler"]
    same = through(error)
    assert type(same) is type(error)
    assert str(same) == str(error)
    assert vars(same) == vars(error)


@pytest.mark.parametrize("name", exceptions.__all__)
def test_an_errors_text_is_its_message(name):
    error = getattr(exceptions, name)("some text")
    assert str(error) == "some text"
    assert error.args == ("some text",)


@pytest.mark.parametrize(
    ("line", "kind", "code", "message"),
    [
        ("ERR Job not found x", FaktoryServerError, "ERR", "Job not found x"),
        ("ERR", FaktoryServerError, "ERR", ""),
        ("", FaktoryServerError, "ERR", ""),
        ("server is down", FaktoryServerError, "ERR", "server is down"),
        ("Err no", FaktoryServerError, "ERR", "Err no"),
        ("ÄRR no", FaktoryServerError, "ERR", "ÄRR no"),
        ("OOM2 command not allowed", FaktoryServerError, "OOM2", "command not allowed"),
        ("NOTUNIQUE Job not unique", FaktoryNotUnique, "NOTUNIQUE", "Job not unique"),
        (
            "ERR tracking subsystem is only available in Faktory Enterprise",
            *(FaktoryEnterpriseRequired, "ERR"),
            "tracking subsystem is only available in Faktory Enterprise",
        ),
        (
            "ERR batch subsystem is only available in Faktory Enterprise",
            *(FaktoryEnterpriseRequired, "ERR"),
            "batch subsystem is only available in Faktory Enterprise",
        ),
    ],
)
def test_a_server_error_has_a_code_and_a_message(line, kind, code, message):
    error = FaktoryServerError.of(line)
    assert type(error) is kind
    assert (error.code, error.message, str(error)) == (code, message, line)


def test_an_unknown_outcome_copies_its_jids():
    jids = ["a"]
    error = FaktoryOutcomeUnknown("text", jids)
    jids.append("b")
    assert error.jids == ["a"]
    assert FaktoryOutcomeUnknown("text", jids=("x",)).jids == ["x"]
    assert FaktoryOutcomeUnknown("text").jids == []


def test_a_bulk_error_has_four_groups_of_jobs():
    error = FaktoryBulkError("text", ("a",), {"b": "why"}, ("c",), ("d",))
    assert (error.jids, error.refused, error.unknown, error.unsent) == (
        *(["a"], {"b": "why"}, ["c"], ["d"]),
    )
    empty = FaktoryBulkError("text")
    assert (empty.jids, empty.refused, empty.unknown, empty.unsent) == ([], {}, [], [])


def test_connection_errors_have_no_errno():
    assert FaktoryConnectionError("text").errno is None
    assert FaktoryOutcomeUnknown("text", ["a"]).errno is None
    assert FaktoryOutcomeUnknown("text", ["a"]).strerror is None


@pytest.mark.parametrize(
    ("retry", "shown"),
    [
        (Retry("x"), "Retry('x')"),
        (Retry("x", after=60, count=False), "Retry('x', after=60, count=False)"),
        (Retry(after=timedelta(seconds=1.5)), "Retry('the job asks to be run again', after=1.5)"),
    ],
)
def test_a_retry_shows_what_it_asks_for(retry: Retry, shown: str) -> None:
    assert repr(retry) == shown
