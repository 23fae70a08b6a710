"""Job templates: one job type, many rows of arguments, one command."""

from __future__ import annotations

import json
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import MappingProxyType, ModuleType
from typing import Any

import pytest

from faktory.exceptions import FaktoryPayloadError

Row = namedtuple("Row", "number text")


def jobs_of(line: bytes) -> list[dict[str, Any]]:
    assert line.startswith(b"PUSHB ")
    assert line.endswith(b"\r\n")
    jobs = json.loads(line.removeprefix(b"PUSHB "))
    assert type(jobs) is list
    return jobs


def test_each_row_becomes_a_job_with_its_own_jid(proto: ModuleType) -> None:
    template = proto.JobTemplate("Send", {"queue": "mail", "retry": 3, "custom": {"a": [1]}})
    rows = [(n, "é" * n, {"k": None}) for n in range(300)]
    line, jids = template.encode_bulk(rows)
    assert len(set(jids)) == 300
    assert jobs_of(line) == [
        {
            "jobtype": "Send",
            "queue": "mail",
            "retry": 3,
            "custom": {"a": [1]},
            "jid": jid,
            "args": list(row),
        }
        for jid, row in zip(jids, rows, strict=True)
    ]


def test_the_line_has_exactly_these_bytes(proto: ModuleType) -> None:
    line, (first, second) = proto.JobTemplate("Größe", {}).encode_bulk([[], (1, "a b")])
    head = '{"jobtype":"Größe","jid":"'
    jobs = [f'{head}{first}","args":[]}}', f'{head}{second}","args":[1,"a b"]}}']
    assert line == f"PUSHB [{','.join(jobs)}]\r\n".encode()


def test_no_rows_give_an_empty_bulk_push(proto: ModuleType) -> None:
    assert proto.JobTemplate("Send", {}).encode_bulk([]) == (b"PUSHB []\r\n", [])


def test_rows_can_come_from_any_iterable_of_lists_or_tuples(proto: ModuleType) -> None:
    template = proto.JobTemplate("Send", {})
    rows = [Row(n, "x") for n in range(5)]
    for given in (rows, tuple(rows), iter(rows), (list(row) for row in rows)):
        assert [job["args"] for job in jobs_of(template.encode_bulk(given)[0])] == [
            [n, "x"] for n in range(5)
        ]


def test_a_template_can_be_reused_and_copies_its_options(proto: ModuleType) -> None:
    custom = {"a": 1}
    options = MappingProxyType({"custom": custom})
    template = proto.JobTemplate("Send", options)
    custom["a"] = 2
    for _ in range(3):
        assert jobs_of(template.encode_bulk([()])[0])[0]["custom"] == {"a": 1}


@pytest.mark.parametrize("name", ["jid", "jobtype", "args"])
def test_a_field_that_the_template_sets_is_rejected_as_an_option(
    proto: ModuleType, name: str
) -> None:
    with pytest.raises(FaktoryPayloadError) as caught:
        proto.JobTemplate("Send", {"queue": "a", name: "x"})
    assert str(caught.value) == f"the template sets {name!r} itself. Leave it out."


@pytest.mark.parametrize(
    ("jobtype", "options", "place"),
    [
        (object(), {}, "jobtype is an object "),
        ("Send", {"queue": {1}}, "queue is a set "),
        ("Send", {"custom": {"a": [2**60]}}, 'custom["a"][0] is an integer beyond '),
        ("\ud800", {}, "jobtype holds the lone surrogate "),
    ],
)
def test_an_invalid_template_is_rejected_when_it_is_created(
    proto: ModuleType, jobtype: Any, options: dict[str, Any], place: str
) -> None:
    with pytest.raises(FaktoryPayloadError) as caught:
        proto.JobTemplate(jobtype, options)
    assert str(caught.value).startswith(place)


def test_an_error_names_the_row(proto: ModuleType) -> None:
    template = proto.JobTemplate("Send", {})
    with pytest.raises(FaktoryPayloadError, match=r"^rows\[2\]\[1\] is a set "):
        template.encode_bulk([(), (1,), (1, set()), (set(),)])
    with pytest.raises(FaktoryPayloadError, match=r'^rows\[0\]\[0\]\["a"\] is nan'):
        template.encode_bulk([({"a": float("nan")},)])


@pytest.mark.parametrize("wrong", ["text", 1, None, {"a": 1}, {1}, range(3), b"ab"])
def test_a_row_must_be_a_list_or_a_tuple(proto: ModuleType, wrong: Any) -> None:
    name = type(wrong).__name__
    with pytest.raises(FaktoryPayloadError) as caught:
        proto.JobTemplate("Send", {}).encode_bulk([(1,), wrong])
    assert str(caught.value) == (
        f"rows[1] is {'an' if name[0] in 'aeiou' else 'a'} {name}; a row is a tuple of arguments. "
        "For a single argument: (value,)."
    )


def test_an_error_of_the_iterator_is_raised_unchanged(proto: ModuleType) -> None:
    def rows() -> Iterator[tuple[object, ...]]:
        yield ("x" * 5000,)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        proto.JobTemplate("Send", {}).encode_bulk(rows())


def test_subclasses_of_rows_and_arguments_are_encoded_as_their_base(proto: ModuleType) -> None:
    line, _ = proto.JobTemplate("Send", OrderedDict(queue="a")).encode_bulk(
        [Row(1, OrderedDict(b=True)), (2, [])]
    )
    assert [job["args"] for job in jobs_of(line)] == [[1, {"b": True}], [2, []]]


def test_templates_leak_no_memory(
    proto: ModuleType, leaks: Callable[[Callable[[], object]], bool]
) -> None:
    def use() -> None:  # makes 256 jids in all, so that the stock of jids keeps its size
        template = proto.JobTemplate("Send", {"queue": "a" * 100})
        template.encode_bulk([(n, "é" * n, Row(1, 2)) for n in range(251)])
        for wrong in ("text", (set(),), ("\ud800",)):
            with suppress(FaktoryPayloadError):
                template.encode_bulk([("x" * 5000,), wrong])
        with suppress(FaktoryPayloadError):
            proto.JobTemplate("Send", {"jid": 1})

    assert not leaks(use)


def test_an_error_names_the_row_with_too_few_or_too_many_arguments(
    proto: ModuleType,
) -> None:
    template = proto.JobTemplate("A", {})
    rows = [(1,), (1, 2), (1, 2, 3)]
    assert len(template.encode_bulk(rows, 1, 3)[1]) == 3
    assert len(template.encode_bulk(rows, 1)[1]) == 3
    for least, most, message in ((2, 3, r"rows\[0\] has 1 "), (0, 2, r"rows\[2\] has 3 ")):
        with pytest.raises(FaktoryPayloadError, match=message):
            template.encode_bulk(rows, least, most)
