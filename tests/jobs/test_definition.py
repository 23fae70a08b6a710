from __future__ import annotations

import copy
import pickle
import pydoc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import faktory
from faktory.client.pool import Pool
from faktory.jobs import options as options_module
from faktory.jobs import registry

from .support import FakeServer, run


def rest(a: int, *more: int) -> None: ...
def nothing() -> None: ...


# Parameters


def keyword_only(a: int, *, b: int = 1) -> None: ...
def any_keyword(a: int, **others: int) -> None: ...


@pytest.mark.parametrize(("function", "what"), [(keyword_only, "b: "), (any_keyword, "others")])
def test_keyword_only_parameters_are_refused_where_the_job_is_declared(
    function: Callable[..., None], what: str
) -> None:
    with pytest.raises(TypeError, match=f"{function.__name__} takes .*{what}.* by keyword only"):
        faktory.job(function)
    with pytest.raises(TypeError, match="by keyword only"):
        type("Refused", (faktory.Job,), {"perform": lambda self, *, b: None})
    assert registry.names() == []


# Functions


def test_a_declared_function_can_still_be_called(server: FakeServer) -> None:
    @faktory.job
    def add(a: int, b: int = 1) -> int:
        """Add."""
        return a + b

    assert add(1) == 2
    assert add(1, b=2) == 3
    assert add.__name__ == "add"
    assert add.__doc__ == "Add."
    assert add.__module__ == __name__
    assert "add" in repr(add)
    assert Path(__file__).name in repr(add)
    assert server.opened == []


def test_help_shows_a_job_as_its_function(server: FakeServer) -> None:
    @faktory.job
    def resize(image: int, size: str = "thumb") -> None:
        """Resize an image."""

    text = pydoc.render_doc(resize, renderer=pydoc.plaintext)  # type: ignore[attr-defined]
    signature = "resize(image: int, size: str = 'thumb') -> None"
    assert signature in re.sub(r"'(int|str|None)'", r"\1", text)  # before 3.14, annotations as text
    assert "Resize an image." in text
    assert "perform_bulk" not in text


@faktory.job
def pickled(number: int, other: int = 2) -> int:
    return number + other


def through_pickle(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def test_a_declared_function_is_pickled_by_its_name(server: FakeServer) -> None:
    assert through_pickle(pickled) is pickled
    assert copy.deepcopy(pickled) is pickled
    assert through_pickle(pickled.perform_async)(1)
    assert server.jobs[0]["jobtype"] == "pickled"


def test_a_job_with_other_options_is_pickled_without_the_fields_made_of_the_defaults(
    server: FakeServer,
) -> None:
    faktory.default_job_options = {"retry": 1}
    job = pickled.set(queue="low")
    job.perform_async(1)
    pickled_job = pickle.dumps(job)
    versions = options_module.default_job_options.version
    faktory.default_job_options = {"retry": 2}
    options_module.default_job_options.version = versions  # as it may be in another process
    pickle.loads(pickled_job).perform_async(1, other=3)
    assert [(job["queue"], job["retry"]) for job in server.jobs] == [("low", 1), ("low", 2)]
    assert through_pickle(faktory.external("Other", queue="low")).perform_async(1)


def test_a_job_with_a_pool_of_its_own_cannot_be_pickled() -> None:
    job = pickled.set(pool=Pool(lambda: faktory.Client("tcp://other:1")))
    with pytest.raises(TypeError, match="pickled has a pool of its own, and connections cannot be"):
        pickle.dumps(job)


def test_an_unknown_option_is_refused_with_the_closest_name_everywhere() -> None:
    job = faktory.job(nothing)
    for declare, where in (
        (lambda: faktory.job(retrys=1), "@faktory.job"),
        (lambda: job.set(retrys=1), r"nothing\.set\(\)"),
        (
            lambda: type("Wrong", (faktory.Job,), {"faktory_options": {"retrys": 1}}),
            r"Wrong\.faktory_options",
        ),
    ):
        with pytest.raises(TypeError, match=rf"{where} has no option 'retrys'.*'retry'"):
            declare()


def test_options_that_are_not_keywords_are_refused() -> None:
    with pytest.raises(TypeError, match="options go by keyword"):
        faktory.job("mail")  # type: ignore[call-overload]


def test_a_dict_changed_after_the_declaration_changes_no_job(server: FakeServer) -> None:
    custom: dict[str, Any] = {"list": [1]}
    faktory_options = {"custom": custom}
    jobs = [
        faktory.job(custom=custom)(nothing),
        faktory.job(name="other")(nothing).set(custom=custom),
        type("Class", (faktory.Job,), {"faktory_options": faktory_options, "perform": rest}),
    ]
    custom["list"].append(2)
    custom["new"] = True
    faktory_options["queue"] = {}
    for job in jobs:
        job.perform_async()
    assert [job["custom"] for job in server.jobs] == [{"list": [1]}] * 3


def test_a_function_runs_with_the_arguments_of_its_payload() -> None:
    @faktory.job
    def add(a: int, b: int = 10) -> int:
        return a + b

    assert run("add", 1) == 11
    assert run("add", 1, 2) == 3


# Jobs of other programs


def takes(image: int, size: str = "thumb") -> None: ...


def test_an_external_job_takes_any_positions_and_is_not_registered(
    server: FakeServer,
) -> None:
    job = faktory.external("ResizeImage", queue="images", retry=3, custom={"a": 1})
    jid = job.perform_async(1, "full", [2])
    job.perform_async()
    job.perform_in(60, 1)
    jids = job.perform_bulk([(1,), (2, 3), ()])
    assert server.jobs[0] == {
        "jid": jid,
        "jobtype": "ResizeImage",
        "args": [1, "full", [2]],
        "queue": "images",
        "retry": 3,
        "custom": {"a": 1},
    }
    assert "at" in server.jobs[2]
    assert [job["jid"] for job in server.jobs[3:]] == jids
    assert [job["args"] for job in server.jobs[1:]] == [[], [1], [1], [2, 3], []]
    assert registry.names() == []
    assert repr(job) == "<faktory job ResizeImage queue='images' retry=3 custom={'a': 1}>"


def test_an_external_job_without_a_signature_takes_no_keywords(server: FakeServer) -> None:
    job = faktory.external("ResizeImage")
    for push in (job.perform_async, job.set(retry=1).perform_async):
        with pytest.raises(
            TypeError, match="ResizeImage: the position of 'size' is not known here"
        ):
            push(1, size="full")
    assert server.opened == []


def test_an_external_job_with_a_signature_checks_its_arguments(
    server: FakeServer,
) -> None:
    job = faktory.external("ResizeImage", takes, queue="images")
    job.perform_async(1, size="full")
    job.set(queue="low").perform_async(image=2)
    assert [(job["queue"], job["args"]) for job in server.jobs] == [
        ("images", [1, "full"]),
        ("low", [2]),
    ]
    with pytest.raises(TypeError, match=r"ResizeImage: .*'image'"):
        job.perform_async()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"rows\[0\]: ResizeImage"):
        job.perform_bulk([(1, "full", 3)])
    assert len(server.jobs) == 2


def test_a_declared_job_may_be_the_signature_of_an_external_one(server: FakeServer) -> None:
    job = faktory.external("ResizeImage", faktory.job(takes))
    job.perform_async(1, size="full")
    assert server.jobs[0]["args"] == [1, "full"]
    assert registry.names() == ["takes"]


def test_an_external_job_cannot_take_keywords_only() -> None:
    with pytest.raises(TypeError, match="by keyword only"):
        faktory.external("ResizeImage", keyword_only)


def test_an_unknown_option_of_an_external_job_is_refused() -> None:
    with pytest.raises(TypeError, match=r"external\('ResizeImage'\) has no option 'retrys'"):
        faktory.external("ResizeImage", retrys=1)  # type: ignore[call-overload]
