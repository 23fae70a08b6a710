"""Command lines: words, JSON, and the rejection of words that would end the line."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest

from faktory.exceptions import FaktoryPayloadError

JOB = {"jid": "0123456789abcdef01234567", "jobtype": "Send", "args": [1, "é"], "queue": "default"}
JOB_DATA = (
    '{"jid":"0123456789abcdef01234567","jobtype":"Send","args":[1,"é"],"queue":"default"}'.encode()
)


class Word(str):
    __slots__ = ()


class FalseText:
    """Has the `__class__` str without being a str."""

    __class__ = str  # type: ignore[assignment]

    def isprintable(self) -> bool:
        return True

    def __contains__(self, other: object) -> bool:
        return False

    def __repr__(self) -> str:
        return "FalseText()"


class FalseJob:
    """Has the `__class__` dict without being a dict."""

    __class__ = dict  # type: ignore[assignment]

    def items(self) -> Any:
        return []


@pytest.mark.parametrize(
    ("words", "data"),
    [
        (("INFO",), b"INFO\r\n"),
        (("QUEUE", "PAUSE", "*"), b"QUEUE PAUSE *\r\n"),
        (("FETCH", *(f"queue{n}" for n in range(500))), None),
        (("FETCH", "größe", "队列", "😀"), "FETCH größe 队列 😀\r\n".encode()),
        (("FETCH", Word("plain"), Word("grüße")), "FETCH plain grüße\r\n".encode()),
        ((Word("INFO"),), b"INFO\r\n"),
        (("x" * 5000, "y" * 5000), None),
        (("!", "~", '"', "\\"), b'! ~ " \\\r\n'),
    ],
)
def test_words_are_joined_into_a_line(
    proto: ModuleType, words: tuple[str, ...], data: bytes | None
) -> None:
    assert proto.encode_command(*words) == (data or " ".join(words).encode() + b"\r\n")


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ({"jid": "a"}, b'ACK {"jid":"a"}\r\n'),
        ([], b"ACK []\r\n"),
        (False, b"ACK false\r\n"),
        (0, b"ACK 0\r\n"),
        ("", b'ACK ""\r\n'),
        (None, b"ACK\r\n"),
        ({"text": "with space\r\nand end"}, b'ACK {"text":"with space\\r\\nand end"}\r\n'),
    ],
)
def test_json_follows_the_words_unless_it_is_none(
    proto: ModuleType, value: object, data: bytes
) -> None:
    assert proto.encode_command("ACK", json=value) == data


def test_spaces_in_the_json_of_mutate_are_escaped(proto: ModuleType) -> None:
    value = {"cmd": "kill", "filter": {"regexp": "*a b*", "k  k": ["\u00a0", Word(" ")]}}
    line = proto.encode_command("MUTATE", json=value)
    assert line.count(b" ") == 1
    assert json.loads(line.removeprefix(b"MUTATE ")) == value
    assert proto.encode_command("PUSH", json="a b") == b'PUSH "a b"\r\n'


BAD_WORDS = [
    *("", " ", "a b", "a\n", "\r\n", "a\rb", "a\tb", "\x00", "\x1f", "\x7f", "a\x80", "a\x85"),
    *("\u00a0", "\u2028", "\u2029", "\u3000", "\u200b", "\ufeff", "\ud800", "a\udfff", "\ue000"),
    *(None, 1, b"bytes", ["list"], FalseText(), Word(""), Word("a b")),
]


@pytest.mark.parametrize("word", BAD_WORDS, ids=range(len(BAD_WORDS)))
def test_a_word_that_would_end_the_line_is_rejected(proto: ModuleType, word: Any) -> None:
    for words in ((word,), ("FETCH", word), ("FETCH", "x" * 3000, word, "default")):
        with pytest.raises(FaktoryPayloadError) as caught:
            proto.encode_command(*words, json={"a": 1})
        assert str(caught.value) == (
            f"{word!r} cannot be a word of the command {words[0]!r}: "
            "use text without spaces, line ends and control characters, and not empty."
        )


def test_every_character_of_a_word_is_checked(proto: ModuleType) -> None:
    for code in range(0x100):
        character = chr(code)
        for word in (character, f"{'a' * 20}{character}", f"{character}{'é' * 20}"):
            if character.isprintable() and character != " ":
                assert proto.encode_command("FETCH", word) == f"FETCH {word}\r\n".encode()
            else:
                with pytest.raises(FaktoryPayloadError):
                    proto.encode_command("FETCH", word)


def test_a_push_is_a_line_with_a_job(proto: ModuleType) -> None:
    assert proto.encode_push(JOB) == b"PUSH " + JOB_DATA + b"\r\n"
    assert proto.encode_push({}) == b"PUSH {}\r\n"


def test_a_bulk_push_is_a_line_with_many_jobs(proto: ModuleType) -> None:
    assert proto.encode_push_bulk([]) == b"PUSHB []\r\n"
    assert proto.encode_push_bulk([JOB]) == b"PUSHB [" + JOB_DATA + b"]\r\n"
    many = [{**JOB, "args": [n, "x" * n]} for n in range(500)]
    data = proto.encode_push_bulk(many)
    assert json.loads(data.removeprefix(b"PUSHB ")) == many
    values = dict(enumerate(many)).values()
    for jobs in (iter(many), tuple(many), (job for job in many), values):
        assert proto.encode_push_bulk(jobs) == data


def test_subclasses_of_dict_are_encoded_among_plain_dicts(proto: ModuleType) -> None:
    class Job(dict[str, Any]):
        pass

    jobs = [JOB, Job(JOB), {**JOB, "args": [Word("é")]}, Job(a=Job()), JOB] * 50
    plain = b",".join(
        [JOB_DATA, JOB_DATA, JOB_DATA.replace(b'1,"', b'"'), b'{"a":{}}', JOB_DATA] * 50
    )
    assert proto.encode_push_bulk(jobs) == b"PUSHB [" + plain + b"]\r\n"
    assert proto.encode_push(Job(JOB)) == b"PUSH " + JOB_DATA + b"\r\n"


def test_an_error_names_the_place_in_the_job(proto: ModuleType) -> None:
    with pytest.raises(FaktoryPayloadError, match=r"^args\[0\] is a set "):
        proto.encode_push({"args": [set()]})
    with pytest.raises(FaktoryPayloadError, match=r'^jobs\[2\]\["args"\]\[0\] is a set '):
        proto.encode_push_bulk([JOB, JOB, {"args": [set()]}, {"args": [set()]}])
    with pytest.raises(FaktoryPayloadError, match=r"^jobs\[0\] has a key that is an int "):
        proto.encode_push_bulk([{1: 2}])


@pytest.mark.parametrize("wrong", [None, [], "job", 1, [("jid", 1)], FalseJob()], ids=range(6))
def test_a_job_must_be_a_dict(proto: ModuleType, wrong: Any) -> None:
    name = type(wrong).__name__
    named = f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    rest = "; a job is a dict with at least 'jobtype' and 'args'."
    with pytest.raises(FaktoryPayloadError) as caught:
        proto.encode_push(wrong)
    assert str(caught.value) == f"the job is {named}{rest}"
    with pytest.raises(FaktoryPayloadError) as caught:
        proto.encode_push_bulk([JOB, wrong])
    assert str(caught.value) == f"jobs[1] is {named}{rest}"


def test_a_bulk_push_of_no_iterable_raises_type_error(proto: ModuleType) -> None:
    for wrong in (None, 1):
        with pytest.raises(TypeError):
            proto.encode_push_bulk(wrong)


def test_an_error_of_the_iterator_is_raised_unchanged(proto: ModuleType) -> None:
    def jobs() -> Iterator[dict[str, Any]]:
        yield {"args": ["x" * 5000]}
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        proto.encode_push_bulk(jobs())


def test_a_list_that_changes_during_encoding_does_not_crash(proto: ModuleType) -> None:
    class Vandal(dict[str, Any]):
        def items(self) -> Any:
            jobs.clear()
            return super().items()

    jobs: list[dict[str, Any]] = [JOB, Vandal(a=1), JOB, JOB]
    assert proto.encode_push_bulk(jobs) == b"PUSHB [" + JOB_DATA + b',{"a":1}]\r\n'


def test_encoding_commands_leaks_nothing(
    proto: ModuleType, leaks: Callable[[Callable[[], object]], bool]
) -> None:
    large = [{**JOB, "args": ["x" * 5000, "é" * 5000, Word("y")]}] * 3

    def encode() -> None:
        proto.encode_command("FETCH", "a", Word("é"), json={"a": 1})
        proto.encode_command("MUTATE", json={"a": " "})
        proto.encode_push(JOB)
        proto.encode_push_bulk([JOB, *large])
        for word in BAD_WORDS:
            with suppress(FaktoryPayloadError):
                proto.encode_command("FETCH", word)
        for wrong in (None, {"args": [set()]}, {1: 1}, {"a": "\ud800"}):
            with suppress(FaktoryPayloadError):
                proto.encode_push(wrong)
            with suppress(FaktoryPayloadError):
                proto.encode_push_bulk([*large, wrong])

    assert not leaks(encode)


@pytest.mark.parametrize(
    ("job", "completed"),
    [
        ({"jobtype": "a", "args": []}, {"queue": "default", "retry": 25}),
        ({"jobtype": "a", "args": (1,)}, {"queue": "default", "retry": 25}),
        ({"args": [], "queue": "mail", "jobtype": "a"}, {"queue": "mail", "retry": 25}),
        ({"jobtype": "a", "args": [], "retry": -1}, {"queue": "default", "retry": -1}),
        ({"jobtype": "a", "args": [], "retry": 2**53}, {"queue": "default", "retry": 2**53}),
    ],
)
def test_an_ordinary_job_is_completed(
    proto: ModuleType, job: dict[str, Any], completed: dict[str, Any]
) -> None:
    before = dict(job)
    made = proto.complete_job(job, {"mail"}, 25)
    jid = made.pop("jid")
    assert len(jid) == 24
    assert made == {"jobtype": "a", "args": job["args"], **completed}
    assert list(made) == ["jobtype", "queue", "args", "retry"]
    assert made["args"] is job["args"]
    assert job == before


@pytest.mark.parametrize(
    "job",
    [
        *(None, [], "job", {}, {"jobtype": "a"}, {"args": []}, OrderedDict(jobtype="a", args=[])),
        *({"jobtype": "", "args": []}, {"jobtype": 1, "args": []}, {"jobtype": "a", "args": "b"}),
        *({"jobtype": "a", "args": [], "queue": each} for each in ("other", 1, [], None)),
        *({"jobtype": "a", "args": [], "retry": each} for each in (-2, 2**53 + 1, True, 1.0, None)),
        *({"jobtype": "a", "args": [], each: None} for each in ("jid", "at", "custom", "x", 1)),
        {"jobtype": "a", "args": [], "queue": "mail", "retry": 1, "custom": {}},
    ],
)
def test_a_job_that_is_not_ordinary_is_left_to_the_checks(proto: ModuleType, job: object) -> None:
    assert proto.complete_job(job, {"mail"}, 25) is None
