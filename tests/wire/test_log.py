from __future__ import annotations

import logging
import logging.config
from collections.abc import Iterator
from typing import Any

import pytest

from faktory.exceptions import Shutdown
from faktory.wire import log as module
from faktory.wire.log import MAX_ARGUMENT, Lines, Log, clean, cut, escape, escape_lines


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    made = logging.getLogger("faktory.test.log")
    made.setLevel(logging.INFO)
    yield made
    made.setLevel(logging.NOTSET)
    made.disabled = False
    made.filters.clear()


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain é 漢 🎉", "plain é 漢 🎉"),
        ("no\u00a0break", "no\u00a0break"),
        ("a\nb\r\nc\td", "a\\nb\\r\\nc\\td"),
        ("\x1b[31mred\x00\x7f\x9b", "\\x1b[31mred\\x00\\x7f\\x9b"),
        ("\x85\u2028\u2029", "\\x85\\u2028\\u2029"),
        ("\u202eabc\u2066\u200f\u061c", "\\u202eabc\\u2066\\u200f\\u061c"),
    ],
)
def test_control_characters_are_escaped(raw: str, shown: str) -> None:
    assert escape(raw) == shown
    assert escape_lines(raw) == shown.replace("\\n", "\n").replace("\\t", "\t")


def test_every_control_character_is_escaped_and_nothing_else() -> None:
    controls = [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F)]
    assert all(escape(chr(each)).isascii() for each in controls)
    assert all(chr(each) == escape(chr(each)) for each in range(0x20, 0x7F))


def test_long_text_is_cut_in_the_middle() -> None:
    assert cut("abc", 3) == "abc"
    text = "a" * 50 + "b" * 50
    assert cut(text, 20) == "aaaaaaaaaa [... 80 characters ...] bbbbbbbbbb"


def test_a_value_is_quoted_as_a_number_or_as_clean_text() -> None:
    class Odd:
        def __str__(self) -> str:
            raise ValueError

    assert [clean(each) for each in (1, 2.5, True)] == [1, 2.5, True]
    assert clean("a\nb") == "a\\nb"
    assert clean(ValueError("a\nb")) == "a\\nb"
    assert clean(Lines("a\n\x1bb")) == "a\n\\x1bb"
    assert "str() raised ValueError" in str(clean(Odd()))
    assert len(str(clean("x" * 5_000_000))) < MAX_ARGUMENT + 50
    assert len(str(clean(Lines("x\n" * 5_000_000)))) < MAX_ARGUMENT + 50


def test_a_line_shows_where_it_was_logged(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    Log(logger).info("%s of %d", "a\x1b", 3)
    Log(Log(logger)).debug("not shown")
    (record,) = caplog.records
    assert record.getMessage() == "a\\x1b of 3"
    assert (record.filename, record.funcName) == (
        "test_log.py",
        "test_a_line_shows_where_it_was_logged",
    )


def test_an_adapter_of_the_program_is_a_logger_too(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    class Adapter(logging.LoggerAdapter[logging.Logger]):
        def process(self, msg: Any, kwargs: Any) -> Any:
            return f"mine: {msg}", kwargs

    Log(Adapter(logger, {})).warning("%s", "text")  # type: ignore[arg-type]
    assert caplog.messages == ["mine: text"]


def test_an_exception_is_logged_with_its_traceback(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        raise KeyError("mine")
    except KeyError:
        Log(logger).exception("wrong")
    assert caplog.records[0].exc_info is not None
    assert caplog.records[0].exc_info[0] is KeyError


@pytest.mark.parametrize("error", [KeyError, RecursionError, MemoryError, OSError])
@pytest.mark.parametrize("where", ["filter", "handler", "factory"])
def test_what_the_programs_own_log_raises_does_not_come_out(
    logger: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    error: type[BaseException],
) -> None:
    break_log(logger, monkeypatch, where, error)
    Log(logger).info("text")
    Log(logger).exception("text")
    Log(logger).log(logging.WARNING, "text")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, Shutdown])
def test_what_ends_a_program_or_a_job_comes_out(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    break_log(logger, monkeypatch, "filter", error)
    with pytest.raises(error):
        Log(logger).info("text")


def break_log(
    logger: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    error: type[BaseException],
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise error

    if where == "filter":
        monkeypatch.setattr(logger, "filters", [broken])
    elif where == "handler":
        handler = logging.NullHandler()
        monkeypatch.setattr(handler, "handle", broken)
        monkeypatch.setattr(logger, "handlers", [handler])
    else:
        before = logging.getLogRecordFactory()
        monkeypatch.setattr(logging, "_logRecordFactory", broken)
        assert logging.getLogRecordFactory() is not before


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process of a worker."""
    monkeypatch.setattr(module, "_kept", False)
    module.keep_enabled()
    enabled = {
        name: each.disabled
        for name, each in logging.root.manager.loggerDict.items()
        if isinstance(each, logging.Logger)
    }
    yield
    for name, disabled in enabled.items():
        logging.getLogger(name).disabled = disabled


@pytest.mark.usefixtures("kept")
def test_a_configuration_that_disables_all_loggers_does_not_disable_ours(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    others = [logging.getLogger(name) for name in ("faktory.job.other", "faktory_of_others")]
    log = Log(logger)
    logging.config.dictConfig({"version": 1})
    assert logger.disabled
    log.info("still there")
    logging.config.dictConfig({"version": 1, "loggers": {"app": {}}})
    log.info("and again")
    assert caplog.messages == ["still there", "and again"]
    assert [each.disabled for each in others] == [False, True]


@pytest.mark.usefixtures("kept")
def test_a_logger_that_is_disabled_on_purpose_stays_so(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    logger.disabled = True
    Log(logger).info("not shown")
    assert caplog.messages == []


def test_without_a_worker_a_configuration_disables_what_it_says(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_kept", False)
    logger.disabled = True
    monkeypatch.setattr(module._marker, "disabled", True)
    Log(logger).info("not shown")
    assert caplog.messages == []
