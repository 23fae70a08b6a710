"""Assertions on pushed jobs; one that fails lists the jobs that wait."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from ..client import network
from ..exceptions import FaktoryPayloadError
from ..jobs.spec import DeclaredJob, spec_of
from ..wire.validate import check_instant

_SHOWN: Final = 10
"""Jobs that each list of a failing assertion shows at most."""


def assert_enqueued(
    job: DeclaredJob | str,
    *,
    args: Sequence[object] | None = None,
    queue: str | None = None,
    at: object = None,
    count: int | None = None,
    **fields: object,
) -> None:
    """Assert that jobs of this type wait: `count` of them, or at least one.

    `job` is a declared job or the name of a job type. Each given value must equal that of the job:
    `at` its time as an aware datetime, epoch seconds or text, `fields` other fields of the wire
    dict, like `retry=3`. A value may have its own `==`, like `pytest.approx`. The arguments of a
    declared job are given as they are on the wire or, all of them, as the job gets them.
    """
    wanted = _wanted(args, queue, at, fields)
    found, others = _look_for(job, wanted)
    if len(found) == count or (count is None and found):
        return
    expected = "at least one" if count is None else str(count)
    raise AssertionError(_report(job, wanted, found, others, f"expected {expected}"))


def assert_not_enqueued(
    job: DeclaredJob | str,
    *,
    args: Sequence[object] | None = None,
    queue: str | None = None,
    at: object = None,
    **fields: object,
) -> None:
    """Assert that no such job waits; see `assert_enqueued`."""
    wanted = _wanted(args, queue, at, fields)
    found, _ = _look_for(job, wanted)
    if found:
        raise AssertionError(_report(job, wanted, found, [], "expected none"))


def _wanted(args: object, queue: object, at: object, fields: dict[str, object]) -> dict[str, Any]:
    wanted = {"args": args, "queue": queue, "at": at}
    return {name: value for name, value in wanted.items() if value is not None} | fields


def _look_for(
    job: DeclaredJob | str, wanted: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the jobs of the type that are as wanted, and the others of the type."""
    found: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for kept in network.memory().jobs_of(_jobtype(job)):
        (others if _differences(job, kept, wanted) else found).append(kept)
    return found, others


def _jobtype(job: DeclaredJob | str) -> str:
    if isinstance(job, str):
        return job
    spec = spec_of(job)
    if spec is None:
        raise TypeError(f"{job!r} is neither a declared job nor the name of a job type.")
    return spec.jobtype


def _differences(job: DeclaredJob | str, kept: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Return the wanted fields that a kept job has not, each as a phrase."""
    phrases = []
    for name, value in wanted.items():
        actual = kept.get(name)
        same = _same_time(value, actual) if name == "at" else _plain(value) == actual
        if name == "args" and not same:
            same = _are_typed_as(job, value, actual)
        if not same:
            text = _text(actual)
            if name == "at" and actual and not isinstance(value, (str, datetime)):
                text = f"{datetime.fromisoformat(actual).timestamp()} ({actual})"
            phrases.append(f"{name} {text}, not {_text(value)}")
    return phrases


def _are_typed_as(job: DeclaredJob | str, wanted: Any, actual: Any) -> bool:
    spec = spec_of(job)
    with suppress(FaktoryPayloadError, TypeError):
        return spec is not None and spec.typed_args(actual) == [*wanted]
    return False


def _plain(value: object) -> object:
    """Return a value as it is after JSON: tuples become lists."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _same_time(wanted: object, text: str | None) -> bool:
    if text is None:
        return False
    actual = datetime.fromisoformat(text)
    same = wanted in (actual, actual.timestamp())
    if isinstance(wanted, (str, datetime, int, float)):
        # The given seconds may have more digits than the text that was made of them.
        same = same or datetime.fromisoformat(check_instant("at", wanted)) == actual
    return same


def _report(
    job: DeclaredJob | str,
    wanted: dict[str, Any],
    found: list[dict[str, Any]],
    others: list[dict[str, Any]],
    expected: str,
) -> str:
    what = _jobtype(job) + "".join(f", {name} {_text(value)}" for name, value in wanted.items())
    lines = [f"Enqueued as {what}: {len(found)} jobs; {expected}."]
    lines += _listed([_shown(kept) for kept in found])
    if others:
        lines.append("Others of this type:")
        lines += _listed(
            [f"{kept['jid']}: {'; '.join(_differences(job, kept, wanted))}" for kept in others]
        )
    if not found and not others:
        jobs = network.memory().jobs
        lines.append("Jobs of other types:" if jobs else "There are no jobs at all.")
        lines += _listed([_shown(kept) for kept in jobs])
    return "\n".join(lines)


def _listed(lines: list[str]) -> list[str]:
    more = len(lines) - _SHOWN
    shown = [f"  {line}" for line in lines[:_SHOWN]]
    return shown if more <= 0 else [*shown, f"  and {more} more"]


def _shown(job: dict[str, Any]) -> str:
    return f"{job['jid']}: {job['jobtype']}{_text(job['args'])}"


def _text(value: object) -> str:
    try:
        return json.dumps(_plain(value), ensure_ascii=False)
    except (TypeError, ValueError):
        return str(value)
