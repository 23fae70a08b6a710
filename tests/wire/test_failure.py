from __future__ import annotations

from collections.abc import Callable
from traceback import extract_tb
from typing import Any

import pytest

from faktory.proto import load_json
from faktory.wire import commands
from faktory.wire.failure import clean, describe, traceback_of


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Wordless(Exception):
    def __str__(self) -> str:
        return None  # type: ignore[return-value]


class Quitter(Exception):
    def __str__(self) -> str:
        raise SystemExit


def test_an_exception_is_reported_by_type_and_message_and_without_lines_by_default():
    assert describe(raised(KeyError("x"))) == ("KeyError", "'x'", [])


ours: dict[str, Any] = {"__name__": "faktory.worker.executor"}
exec("def call(function):\n return function()", ours)
call: Callable[[Callable[[], object]], object] = ours["call"]
"""Calls a function, from a module of this package."""


def names_in(error: BaseException) -> list[str]:
    return [frame.name for frame in extract_tb(traceback_of(error))]


def test_frames_of_this_package_above_the_jobs_are_left_out():
    def job() -> object:
        try:
            raise KeyError("reason")
        except KeyError as reason:
            raise ValueError("outer") from reason

    def middleware() -> object:
        return call(job)

    with pytest.raises(ValueError, match="outer") as caught:
        call(middleware)
    assert names_in(caught.value)[1:] == ["middleware", "job"]
    assert len(extract_tb(caught.value.__traceback__)) == 5  # its own is as it was
    lines = describe(caught.value, backtrace=20)[2]
    assert "KeyError: 'reason'" in lines
    assert not any("in call" in line for line in lines)


def test_frames_of_this_package_that_the_job_called_are_kept():
    def job() -> object:
        return call({}.popitem)

    with pytest.raises(KeyError) as caught:
        call(job)
    assert names_in(caught.value)[1:] == ["job", "call"]


def test_a_traceback_with_frames_of_this_package_alone_is_kept():
    with pytest.raises(KeyError) as caught:
        call({}.popitem)
    assert caught.value.__traceback__ is not None
    alone = caught.value.with_traceback(caught.value.__traceback__.tb_next)
    assert names_in(alone) == ["call"]
    assert traceback_of(ValueError("never raised")) is None


def test_without_an_exception_the_type_is_unknown():
    assert describe(None) == ("unknown", "", [])
    assert describe(None, backtrace=5) == ("unknown", "", [])


def test_a_given_type_and_message_replace_the_exceptions():
    assert describe(ValueError("a"), "Custom", "b") == ("Custom", "b", [])
    assert describe(ValueError("a"), "", "") == ("", "", [])


@pytest.mark.parametrize(("asked", "count"), [(-1, 0), (0, 0), (1, 1), (3, 3), (10**9, 4)])
def test_backtrace_counts_the_last_lines(asked, count):
    lines = describe(raised(ValueError("boom")), backtrace=asked)[2]
    assert len(lines) == count
    if lines:
        assert lines[-1] == "ValueError: boom"


def test_an_exception_that_was_never_raised_has_a_backtrace_of_one_line():
    assert describe(ValueError("boom"), backtrace=10)[2] == ["ValueError: boom"]


def test_lines_may_be_given_one_by_one_or_as_one_text():
    assert describe(None, backtrace=["a", "b"])[2] == ["a", "b"]
    assert describe(None, backtrace=("a",))[2] == ["a"]
    assert describe(None, backtrace=iter("ab"))[2] == ["a", "b"]
    assert describe(None, backtrace="first line\nsecond line\n")[2] == ["first line", "second line"]


def test_the_server_keeps_fifty_lines_so_the_last_fifty_are_sent():
    lines = [f"line {number}" for number in range(60)]
    assert describe(None, backtrace=lines)[2] == lines[-50:]
    deep = describe(raised(ValueError("a\n" * 70)), backtrace=60)[2]
    assert len(deep) == 50


@pytest.mark.parametrize("kind", [Unspeakable, Wordless, Quitter])
@pytest.mark.parametrize("backtrace", [None, 50])
def test_an_exception_whose_str_raises_is_reported(kind, backtrace):
    errtype, message, lines = describe(raised(kind()), backtrace=backtrace)
    assert errtype == kind.__name__
    assert message.startswith("(its text cannot be had: str() raised ")
    assert bool(lines) is (backtrace is not None)


def test_an_exception_whose_traceback_cannot_be_formatted_is_reported(monkeypatch):
    def broken(*_):
        raise MemoryError

    monkeypatch.setattr("traceback.format_exception", broken)
    assert describe(raised(ValueError("a")), backtrace=5) == (
        *("ValueError", "a"),
        ["(the traceback cannot be had: MemoryError)"],
    )


class Raises(BaseException):
    pass


class Nameless(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__name__", "__qualname__", "__module__"):
            raise Raises(name)
        return type.__getattribute__(cls, name)


class NamelessError(Exception, metaclass=Nameless):
    pass


class ClasslessError(Exception):
    @property
    def __class__(self) -> Any:
        raise Raises("class")


class ClosedError(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise Raises(name)


class Text(str):
    def __str__(self) -> str:
        raise Raises("str")

    encode = __getitem__ = __str__  # type: ignore[assignment]


class TextError(Exception):
    def __str__(self) -> str:
        return Text("own message")


HOSTILE = {
    "NamelessError": NamelessError,
    "ClasslessError": ClasslessError,
    "ClosedError": ClosedError,
    "TextError": TextError,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_exception_whose_own_methods_raise_is_reported_with_its_own_message(name):
    kind = HOSTILE[name]
    errtype, message, lines = describe(raised(kind("own message")), backtrace=50)
    assert (errtype, message) == (name, "own message")
    assert lines[0] == "Traceback (most recent call last):"
    assert any("in raised" in line for line in lines)


def test_an_exception_whose_str_raises_is_reported_with_its_arguments():
    assert describe(Unspeakable("own message"))[1].startswith("own message (its text cannot")


def test_causes_in_a_circle_are_reported():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert describe(raised(first), backtrace=50)[2][-1] == "ValueError: first"


def test_a_huge_message_leaves_a_short_traceback():
    lines = describe(raised(ValueError("own\n" * 2_000_000)), backtrace=50)[2]
    assert (len(lines), lines[-1]) == (50, "own")


def test_given_texts_whose_str_raises_are_reported():
    errtype, message, lines = describe(None, Unspeakable(), Quitter(), [Wordless()])
    assert all("cannot be had" in text for text in (errtype, message, *lines))


def test_other_values_become_text():
    assert describe(None, 5, ["x"], [7, None]) == ("5", "['x']", ["7", "None"])


def test_a_lone_surrogate_is_escaped():
    assert describe(ValueError("a\ud800b")) == ("ValueError", "a\\ud800b", [])


@pytest.mark.parametrize(
    ("text", "limit", "kept"),
    [
        ("x" * 2000, 1000, "x" * 1000),
        ("é" * 600, 1000, "é" * 500),
        ("x" + "é" * 600, 1000, "x" + "é" * 499),
        ("💥" * 300, 1000, "💥" * 250),
        ("abc", 3, "abc"),
        ("abé", 3, "ab"),
        ("\ud800" * 400, 1000, ("\\ud800" * 400)[:1000]),
    ],
)
def test_text_is_cut_to_bytes_between_characters(text, limit, kept):
    assert clean(text, limit) == kept


def test_all_parts_are_cut_to_what_the_server_keeps():
    kind = type("é" * 80, (Exception,), {})
    errtype, message, lines = describe(raised(kind("ü" * 10**6)), backtrace=3)
    assert errtype == "é" * 50
    assert message == "ü" * 500
    assert max(len(line.encode()) for line in lines) == 1000


@pytest.mark.parametrize("kind", [Unspeakable, Quitter, ValueError])
def test_every_report_can_be_sent(kind):
    report = describe(raised(kind("\x00\udcff\n💥")), backtrace=50)
    sent = load_json(commands.fail("a" * 24, *report).data[len("FAIL ") :])
    assert (sent["errtype"], sent["message"], sent["backtrace"]) == report


def test_groups_and_chains_are_reported_in_full():
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ExceptionGroup("several", [ValueError("one")]) from error
    except ExceptionGroup as group:
        lines = describe(group, backtrace=50)[2]
    assert "KeyError: 'first'" in lines
    assert any("ValueError: one" in line for line in lines)
