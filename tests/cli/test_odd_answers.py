"""The tools with a server whose answers no Faktory sends: they say what is odd, and never end in a
traceback."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..support import AnsweringServer, bulk
from .support import call, examine, parts

INFO: dict[str, Any] = {
    "now": "2026-01-02T03:04:05Z",
    "server_utc_time": "03:04:05 UTC",
    "faktory": {
        "queues": {"default": 2, "images": 0},
        "sets": {"scheduled": 1, "retries": 2, "dead": 3, "working": 0},
        "tasks": {"Workers": {"size": 0}},
        "total_enqueued": 2,
        "total_processed": 5,
        "total_failures": 1,
        "total_queues": 2,
    },
    "server": {
        "description": "Faktory",
        "faktory_version": "1.10.0",
        "uptime": 100,
        "connections": 1,
        "command_count": 2,
        "used_memory_mb": 5,
    },
}

ODD: list[Any] = [
    *(None, True, 0, -1, 1.5, 10**400, "", "text", "\x1b[31m\r\n\x9b", [], [1], {}, {"a": 1}),
    {"\x1b[2J\n": 5, "a b": 1, "": 2},
    {"default": "2", "images": None, "retries": [], "dead": {}},
    "9" * 10_000,
]


def shapes() -> Iterator[tuple[str, object]]:
    """Yield INFO with each of its values, and all of it, replaced by each odd one, or left out."""
    for value in ODD:
        yield f"all {value!r:.20}", value
    places = [("now",), ("faktory",), ("server",)]
    places += [("faktory", name) for name in INFO["faktory"]]
    places += [("server", name) for name in INFO["server"]]
    places += [("faktory", "queues", "default"), ("faktory", "sets", "retries")]
    places += [("faktory", "tasks", "Workers"), ("faktory", "tasks", "Workers", "size")]
    for *path, last in places:
        for value in [*ODD, shapes]:
            info = copy.deepcopy(INFO)
            inner = info
            for name in path:
                inner = inner[name]
            if value is shapes:
                del inner[last]
            else:
                inner[last] = value
            yield f"{path} {last} {value!r:.20}", info


BROKEN = [
    *(b"+OK\r\n", b":5\r\n", b"$-1\r\n", b"-ERR no \x1b[31m\r\n", b"-\r\n", b"$2\r\n{]\r\n"),
    bulk(b"\x1b[31m"),
    bulk(b"[" * 100_000),
    bulk(b'{"faktory":' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"$5\r\nhelloXX",
]

LATENCIES: list[bytes] = [
    *(bulk({"default": value}) for value in ODD),
    *(bulk(value) for value in ODD),
    *BROKEN,
]

TOOLS: dict[str, list[str]] = {
    "info": ["info"],
    "info --json": ["info", "--json"],
    "queues": ["queues"],
    "queues default": ["queues", "default"],
    "queues --json": ["queues", "--json"],
    "pause": ["pause", "default"],
    "resume": ["resume", "--all"],
    "remove": ["remove", "default", "--yes"],
    "mutate": ["mutate", "kill", "retries", "--yes"],
    "mutate --json": ["mutate", "requeue", "dead", "--json"],
    "flush": ["flush", "--yes"],
    "push": ["push", "work", "1"],
    "top": ["top", "-n", "1"],
    "top --json": ["top", "--json", "-d", "0.1"],
    "doctor": ["doctor", "--watch", "0"],
    "doctor --json": ["doctor", "--watch", "0", "--json"],
}


class Odd(AnsweringServer):
    """Answers INFO, QUEUE LATENCY and all else as a test says."""

    def __init__(self, hi: bytes = b'+HI {"v":2}\r\n') -> None:
        self.info = bulk(INFO)
        self.latency = bulk({"default": 0.5})
        self.other = b"+OK\r\n"
        super().__init__(self._reply, hi)

    def _reply(self, line: str) -> bytes:
        if line == "INFO":
            return self.info
        return self.latency if line.startswith("QUEUE LATENCY") else self.other


@pytest.fixture(scope="module")
def odd() -> Iterator[Odd]:
    with Odd() as server:
        yield server


@pytest.fixture(autouse=True)
def usual(odd: Odd) -> None:
    odd.info, odd.latency, odd.other = bulk(INFO), bulk({"default": 0.5}), b"+OK\r\n"


def use(tool: str, url: str) -> int:
    """Run a tool; check its output, and return its exit code. An exception is a traceback."""
    done = call(*TOOLS[tool], url=url)
    assert done.code in (0, 1, 2, 4, 9), done
    assert "Traceback" not in done.stderr
    assert done.code == 0 or done.stderr or "doctor" in tool
    for text in (done.stderr, *([] if tool in ("info --json", "top --json") else [done.stdout])):
        assert all(line.isprintable() for line in text.split("\n")), text
        assert len(text) < 10_000
    if tool.endswith("--json") and done.stdout:
        json.loads(done.stdout)
    return done.code


def shared(share: int) -> pytest.MarkDecorator:
    """Of the cases each tool tries one in `share`, so that all are tried; all in `make soak`."""
    return pytest.mark.parametrize("share", [share, pytest.param(1, marks=pytest.mark.soak)])


def first(tool: str, share: int) -> int:
    return list(TOOLS).index(tool) % share


@shared(10)
@pytest.mark.parametrize("tool", TOOLS)
def test_no_info_makes_a_tool_end_in_a_traceback(tool: str, share: int, odd: Odd) -> None:
    for name, info in list(shapes())[first(tool, share) :: share]:
        looks = tool in ("info", "top", "top --json", "doctor --json")
        if not looks and "queues" not in name and "sets" not in name:
            continue  # it looks at nothing else
        odd.info = bulk(info)
        try:
            use(tool, odd.url)
        except BaseException as error:
            raise AssertionError(name) from error


@shared(3)
@pytest.mark.parametrize("tool", ["queues", "queues --json", "top", "doctor", "doctor --json"])
def test_no_latency_makes_a_tool_end_in_a_traceback(tool: str, share: int, odd: Odd) -> None:
    for latency in LATENCIES[first(tool, share) :: share]:
        odd.latency = latency
        use(tool, odd.url)


@shared(3)
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("where", ["info", "other"])
def test_no_broken_reply_makes_a_tool_end_in_a_traceback(
    tool: str, where: str, share: int, odd: Odd
) -> None:
    for reply in BROKEN[first(tool, share) :: share]:
        setattr(odd, where, reply)
        use(tool, odd.url)


GREETINGS = [
    *BROKEN,
    b"+HI\r\n",
    b"+HI \x1b[31m\r\n",
    *(b"+HI " + json.dumps(value).encode() + b"\r\n" for value in ODD),
    *(b'+HI {"v":' + json.dumps(value).encode() + b"}\r\n" for value in ODD),
    *(b'+HI {"v":2,"i":5,"s":%b}\r\n' % json.dumps(value).encode() for value in ODD),
    *(b'+HI {"v":2,"s":"abc","i":%b}\r\n' % json.dumps(value).encode() for value in ODD),
    b'+HI {"v":2,"s":"\\ud800","i":1}\r\n',
]


@shared(3)
@pytest.mark.parametrize("tool", ["push", "doctor", "doctor --json"])
def test_no_greeting_makes_a_tool_end_in_a_traceback(tool: str, share: int) -> None:
    for hi in GREETINGS[first(tool, share) :: share]:
        with Odd(hi) as server:
            use(tool, server.url)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(info=JSON, queues=JSON, server=JSON, latency=JSON, sets=st.dictionaries(st.text(), JSON))
def test_tools_survive_any_json(
    odd: Odd, info: object, queues: object, server: object, latency: object, sets: object
) -> None:
    for value in (info, {**INFO, "faktory": {"queues": queues, "sets": sets}, "server": server}):
        odd.info, odd.latency, odd.other = bulk(value), bulk(latency), bulk(latency)
        for tool in ("info", "queues", "mutate", "flush", "doctor --json"):
            use(tool, odd.url)


@pytest.mark.parametrize("info", [[], "text", 5, None, True])
def test_doctor_ends_with_an_error_where_info_is_not_an_object(info: object, odd: Odd) -> None:
    odd.info = bulk(info)
    code, found, _ = examine(url=odd.url)
    level, text, remedy = parts(found["info"])
    assert (code, level) == (1, "error")
    assert text.startswith(f"the server answered {info!r} where a JSON object belongs")
    assert "faktory-worker info --json" in remedy


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"faktory": []}, "faktory is [] (list), not an object."),
        ({"faktory": {"sets": {}}}, "faktory.queues is None (NoneType), not an object."),
        ({"faktory": {"queues": {"a": "x"}}}, "faktory.queues['a'] is 'x', not a number of jobs."),
        ({"faktory": {"queues": {"a": -1}}}, "faktory.queues['a'] is -1 (int), not a number of"),
    ],
)
def test_doctor_says_what_is_odd(change: dict[str, Any], said: str, odd: Odd) -> None:
    odd.info = bulk({**INFO, **change})
    code, found, _ = examine(url=odd.url)
    level, text, _ = parts(found["info"])
    assert (code, level) == (1, "error")
    assert text.startswith(f"the server's answer to INFO is odd: {said}")
    assert {"version", "clock"} <= found.keys()


def test_control_characters_of_the_server_are_escaped(odd: Odd) -> None:
    odd.info = bulk(
        {
            **INFO,
            "server": {"description": "\x1b[31mred\r\n", "faktory_version": "1\x07"},
            "faktory": {"queues": {"\x1b]0;title\x07": 1}, "sets": {"a\nb": 2}},
        }
    )
    shown = call("info", url=odd.url).stdout
    assert "server       \\x1b[31mred\\r\\n 1\\x07\n" in shown
    assert "a\\nb" in shown
    assert "\\x1b]0;title\\x07  " in call("queues", url=odd.url).stdout
    odd.other = b"-ERR \x1b[31m no\r\n"
    done = call("push", "work", url=odd.url)
    assert (done.code, done.stderr) == (1, "python -m faktory push: ERR \\x1b[31m no\n")


def test_a_queue_without_a_date_does_not_hide_the_others(odd: Odd) -> None:
    answers = {"default": bulk({"default": 100.0}), "images": b'-ERR QUEUE: parsing time ""\r\n'}
    odd.info = bulk({**INFO, "faktory": {**INFO["faktory"], "queues": dict.fromkeys(answers, 1)}})
    latency: Callable[[str], bytes] = lambda line: answers[line.split()[-1]]  # noqa: E731
    with AnsweringServer(lambda line: odd.info if line == "INFO" else latency(line)) as server:
        done = call("queues", "--json", url=server.url)
        assert json.loads(done.stdout) == [
            {"name": "default", "size": 1, "latency": 100.0},
            {"name": "images", "size": 1, "latency": None},
        ]
        code, found, _ = examine(url=server.url)
    assert (code, found["queues"]["level"]) == (0, "ok")
    assert found["queues"]["text"].endswith("it does not show how long jobs wait in: images")
