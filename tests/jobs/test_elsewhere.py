"""Who knows another library gets the name that it has here; nothing else changes."""

from __future__ import annotations

import copy
import inspect
import pickle
import pydoc
from typing import Any
from unittest.mock import Mock, create_autospec

import pytest

import faktory
from faktory.jobs import elsewhere, registry
from faktory.jobs.options import NAMES

from .support import FakeServer


@faktory.job
def resize(image: str, width: int = 200) -> None: ...


class Resize(faktory.Job):
    def perform(self, image: str) -> None: ...


OPTIONS = "with options set(queue=...).perform_async(...)"
LATER = "perform_in(seconds, ...) or perform_at(time, ...)"


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("delay", "use perform_async(...)."),
        ("send", "use perform_async(...)."),
        ("enqueue", "use perform_async(...)."),
        ("perform_later", "use perform_async(...)."),
        ("apply_async", f"use perform_async(...), {OPTIONS}, for later {LATER}."),
        ("send_with_options", f"use perform_async(...), {OPTIONS}, for later {LATER}."),
        ("enqueue_in", "use perform_in(seconds, ...)."),
        ("enqueue_at", "use perform_at(time, ...)."),
        ("s", "use message(...)."),
        ("kiq", "use aperform(...)."),
    ],
)
def test_a_method_that_has_another_name_elsewhere_is_missing_with_that_of_here(
    name: str, remedy: str
) -> None:
    for job, shown in (
        (resize, "resize"),
        (resize.set(queue="x"), "resize"),
        (faktory.external("Convert"), "Convert"),
        (Resize, "Resize"),
        (Resize(), "Resize"),
    ):
        with pytest.raises(AttributeError) as caught:
            getattr(job, name)
        assert str(caught.value) == f"the job {shown} has no {name!r}: {remedy}"


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("perform", "a plain call to run it here, or perform_async(...) to push it"),
        ("apply", "a plain call to run it here, or perform_async(...) to push it"),
        ("push", "perform_async(...)"),
        ("map", "perform_bulk(rows)"),
        ("schedule", LATER),
    ],
)
def test_functions_have_more_of_them(name: str, remedy: str) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(resize, name)
    assert str(caught.value) == f"the job resize has no {name!r}: use {remedy}."


class Sender:
    delay = 3

    def send(self) -> str:
        return f"sent by {type(self).__name__}"

    @classmethod
    def enqueue(cls) -> str:
        return f"enqueued by {cls.__name__}"

    @property
    def defer(self) -> int:
        return 2 * self.delay


def test_a_base_behind_the_job_may_have_such_a_method() -> None:
    class Mail(faktory.Job, Sender):
        def perform(self) -> None: ...

    mail: Any = Mail()
    assert (mail.send(), Mail.enqueue(), Mail.delay, mail.defer) == (
        "sent by Mail",
        "enqueued by Mail",
        3,
        6,
    )
    with pytest.raises(AttributeError, match="the job Mail has no 'kiq'"):
        mail.kiq  # noqa: B018


def test_an_attribute_that_is_missing_everywhere_is_missing_in_pythons_words() -> None:
    with pytest.raises(AttributeError, match="object has no attribute 'nothing'"):
        resize.nothing  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(AttributeError, match="type object 'Resize' has no attribute 'nothing'"):
        Resize.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_for_programs_the_attributes_are_not_there(server: FakeServer) -> None:
    for job in (resize, resize.set(retry=1), Resize):
        assert not hasattr(job, "delay")
        assert getattr(job, "delay", 5) == 5
    assert not {*elsewhere.METHODS} & {*dir(resize)}
    assert {"perform_async", "set", "message", "jobs"} <= {*dir(resize)}
    assert "delay" not in dict(inspect.getmembers_static(resize))
    assert "perform(self, image" in pydoc.render_doc(Resize, renderer=pydoc.plaintext)  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(resize)) is resize
    for made in (copy.copy, copy.deepcopy, lambda job: pickle.loads(pickle.dumps(job))):
        assert made(resize.set(retry=1)).perform_async("a")
    assert [job["retry"] for job in server.jobs] == [1, 1, 1]


def test_mocks_of_a_job_have_its_attributes_and_no_others() -> None:
    with faktory.testing.fake():  # else `jobs` raises
        mocks = [Mock(spec=resize), create_autospec(resize.set(retry=1), instance=True)]
        assert create_autospec(Resize).perform_async is not None
    for mock in mocks:
        mock.perform_async("a")
        mock.perform_async.assert_called_once_with("a")
        with pytest.raises(AttributeError):
            mock.delay  # noqa: B018


def test_classes_and_instances_may_have_such_names_themselves() -> None:
    class Mail(faktory.Job):
        enqueue = 5

        def send(self) -> str:
            return "sent"

        def perform(self) -> str:
            self.delay = 1
            return f"{self.send()} {self.delay} {self.enqueue}"

    registered = registry.find("Mail")
    assert registered is not None
    assert Mail().perform() == "sent 1 5"


def test_a_class_that_answers_for_missing_attributes_is_asked() -> None:
    class Mail(faktory.Job):
        def __getattr__(self, name: str) -> str:
            return name

        def perform(self) -> None: ...

    assert Mail().delay == "delay"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("max_retries", "Did you mean 'retry'?"),
        ("retries", "Did you mean 'retry'?"),
        ("queue_name", "Did you mean 'queue'?"),
        ("autoretry_for", "Did you mean 'retry_on'?"),
        ("throws", "Did you mean 'discard_on'?"),
        ("min_backoff", "Did you mean 'backoff'?"),
        ("soft_time_limit", "Did you mean 'time_limit'?"),
        ("timeout", "Did you mean 'time_limit'?"),
        ("max_age", "Did you mean 'expires_in'?"),
        ("expires", "Did you mean 'expires_in'?"),
        ("actor_name", "Did you mean 'name'?"),
        ("tags", "Did you mean 'custom'?"),
        ("lock", "Did you mean 'unique_for'?"),
        ("countdown", "A push says when it runs: perform_in(seconds, ...)."),
        ("bind", "The running job is faktory.current_job()."),
        ("rate_limit", "A queue can have a limit: faktory-worker -q api,limit=2."),
        ("ignore_result", "A job has no result to be kept."),
    ],
)
def test_an_option_that_has_another_name_elsewhere_gets_that_of_here(name: str, hint: str) -> None:
    for declare, where in (
        (lambda options: faktory.job(**options), "@faktory.job"),
        (
            lambda options: type("Wrong", (faktory.Job,), {"faktory_options": options}),
            "Wrong.faktory_options",
        ),
    ):
        with pytest.raises(TypeError) as caught:
            declare({name: 1})
        assert str(caught.value) == f"{where} has no option {name!r}. {hint}"


def test_an_unknown_option_is_refused_with_all_there_are() -> None:
    with pytest.raises(TypeError) as caught:
        faktory.job(zzz=1)
    listed = str(caught.value).partition("There are ")[2]
    for name in (*NAMES, "time_limit", "name", "retry_on", "discard_on", "backoff"):
        assert repr(name) in listed


def test_hints_name_options_that_exist() -> None:
    there: set[Any] = {*NAMES, "name", "jid", "retry_on", "discard_on", "backoff"}
    assert {*elsewhere.OPTIONS.values()} <= there
    assert not ({*elsewhere.OPTIONS} | {*elsewhere.REMEDIES}) & there
