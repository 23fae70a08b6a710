"""`top`: what it reads, what it shows in lines, in JSON and on a terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from faktory import Client
from faktory.cli import terminal
from faktory.cli.tools import frame, readings, top
from faktory.cli.tools.admin import State
from faktory.cli.tools.readings import Reading, Seen
from faktory.server import EmbeddedServer

from ..support import AnsweringServer, bulk
from .support import WaitUntil, _environment, call, call_on_terminal
from .terminal import Terminal

FAST = ("-d", "0.1")

# What is read.


def reading(
    at: float,
    queues: dict[str, int] | None = None,
    processed: Any = 0,
    failed: Any = 0,
    commands: Any = 0,
    names: tuple[str, ...] = (),
    **sets: int,
) -> Reading:
    state = State({"default": 0} if queues is None else queues, sets)
    info = {
        "faktory": {
            "total_processed": processed,
            "total_failures": failed,
            "tasks": {"Workers": {"size": 0}},
        },
        "server": {
            "description": "Faktory",
            "faktory_version": "1.10.0",
            "uptime": 3725,
            "command_count": commands,
        },
    }
    made = Reading(info, state, at, names, [], {})
    shown = readings.largest(made.sizes, 50)
    return made._replace(shown=shown, latencies=dict.fromkeys(shown, 0.5))


def test_rates_are_those_of_the_time_between_two_readings() -> None:
    before = reading(10.0, {"default": 100}, 1000, 10, 50, working=5, retries=1)
    # 40 ended well, 2 failed and wait for a retry, 60 were pushed.
    after = reading(12.0, {"default": 116, "new": 2}, 1042, 12, 90, working=5, retries=3)
    assert readings.rates(before, after) == (2.0, 30.0, 21.0, 1.0, 20.0)


def test_deleted_jobs_do_not_make_a_rate_negative() -> None:
    rates = readings.rates(reading(1.0, {"default": 100}), reading(2.0))
    assert (rates.pushed, rates.processed) == (0.0, 0.0)


@pytest.mark.parametrize("processed", [4, None, "5", [], True, 10**400])
def test_numbers_that_begin_again_have_no_rate(processed: Any) -> None:
    rates = readings.rates(reading(1.0, processed=5), reading(2.0, processed=processed))
    assert rates == (1.0, None, None, None, None)


def test_one_reading_has_no_rates() -> None:
    assert readings.rates(None, reading(2.0)) == (0.0, None, None, None, None)


def test_a_thousand_queues_cost_a_command_for_each_that_is_shown() -> None:
    queues = {f"queue-{number}": number for number in range(1000)}

    def answer(line: str) -> bytes:
        if line == "INFO":
            return bulk({"faktory": {"queues": queues, "sets": {}}})
        return bulk({line.split()[-1]: 1.5})

    with AnsweringServer(answer) as server:
        with Client(server.url) as client:
            found = readings.read(client, (), 14)
        assert [line.split(" ")[0] for line in server.lines].count("QUEUE") == 14
    assert found.shown == [f"queue-{number}" for number in range(999, 985, -1)]
    assert found.latencies == dict.fromkeys(found.shown, 1.5)


# What is shown of it.


def shown(seen: Seen, width: int = 80, height: int | None = 24, **more: str) -> list[str]:
    lines = frame.frame(seen, "localhost:7419", width, height, **more)
    assert all(sum(len(text) for text, _ in line) <= width for line in lines)
    assert height is None or len(lines) <= height
    text = frame.plain(lines)
    assert text.isascii()
    return text.split("\n")


def styles(seen: Seen) -> dict[str, str]:
    """Return the styles that mean something, by the text that has them."""
    lines = frame.frame(seen, "localhost:7419", 80, 24)
    return {
        " ".join(text.split()): style
        for line in lines
        for text, style in line
        if style in ("warning", "error")
    }


def test_a_narrow_frame_shows_the_sets_and_whole_columns() -> None:
    before = reading(10.0, {"mails": 4}, 1_234_500, 122)
    after = reading(12.0, {"mails": 12}, 1_234_567, 123, working=4, retries=2, dead=1)
    assert shown(Seen(after, before), width=40) == [
        "Faktory 1.10.0 at localhost:7419, up 1 h",
        "",
        "processed       1,234,567      33.5/s",
        "failed                123       0.5/s",
        "enqueued               12",
        "working                 4",
        "retries                 2",
        "dead                    1",
        "",
        "QUEUE                       JOBS",
        "mails                         12",
    ]
    assert shown(Seen(after, before), width=40, height=10)[-2].startswith("dead ")


def test_a_frame_of_80_columns() -> None:
    before = reading(10.0, {"mails": 4, "images": 1200}, 1_234_500, 122, 5000, working=4)
    after = reading(
        12.0, {"mails": 4, "images": 1224, "a": 0}, 1_234_567, 123, 5101, working=4, dead=1
    )
    after.latencies.update(mails=7290.0, images=None)
    assert shown(Seen(after, before), hint="every 2 s, q ends it") == [
        "Faktory 1.10.0 at localhost:7419, up 1 h 2 min              every 2 s, q ends it",
        "",
        "processed       1,234,567      33.5/s   enqueued        1,228  in 3 queues",
        "failed                123       0.5/s   scheduled           0",
        "pushed                         45.5/s   working             4",
        "commands            5,101      50.5/s   retries             0",
        "connections             ?               dead                1",
        "memory                  -               workers             0  none is connected",
        "",
        "QUEUE                       JOBS      CHANGE    OLDEST WAITS",
        "images                     1,224     +12.0/s               ?",
        "mails                          4                   2 h 1 min",
        "a                              0                           -",
    ]
    assert styles(Seen(after, before)) == {
        "123 0.5/s": "error",
        "1": "error",
        "0 none is connected": "warning",
        "2 h 1 min": "warning",
    }


def test_what_does_not_fit_is_counted() -> None:
    queues = {f"queue-{number:04}": number for number in range(1000)}
    lines = shown(Seen(reading(1.0, queues)))
    assert len(lines) == 24
    assert lines[10].startswith("queue-0999")
    assert lines[22].startswith("queue-0987")
    assert lines[23] == "and 987 more queues with 486,591 jobs"
    lines = shown(Seen(reading(1.0, queues)), height=None)
    assert lines[-1] == "and 950 more queues with 450,775 jobs"
    assert len(lines) == 10 + 50 + 1


def test_queues_that_are_named_are_all_shown() -> None:
    queues = {f"queue-{number:04}": 1 for number in range(1000)}
    seen = Seen(reading(1.0, queues, names=tuple(queues)[:60]))
    seen = Seen(seen.latest._replace(shown=readings.largest(seen.latest.sizes, 60)))
    assert len(shown(seen, height=None)) == 10 + 60


@pytest.mark.parametrize("width", [1, 20, 41, 80, 120, 300])
@pytest.mark.parametrize("height", [1, 2, 9, 10, 11, 12, 24, 50])
def test_a_frame_fits_into_any_terminal(width: int, height: int) -> None:
    queues = {f"{'long' * 100}-{number}": number for number in range(30)}
    seen = Seen(reading(1.0, queues), problem="nothing listens")
    shown(seen, width, height, hint="every 2 s", note="no answer since 12:00:00, " + "x " * 200)


def test_numbers_that_are_old_have_no_rates() -> None:
    seen = Seen(reading(2.0, {"a": 9}, 50), reading(1.0, {"a": 2}, 10))
    assert "40.0/s" in "\n".join(shown(seen))
    old = shown(seen, note="no answer since 12:00:00, trying again: \x1b[2Jnothing listens")
    assert old[1] == "no answer since 12:00:00, trying again: \\x1b[2Jnothing listens"
    assert "/s" not in "\n".join(old)
    assert old[-1].split() == ["a", "9", "0.5", "s"]


def test_a_server_without_queues() -> None:
    assert shown(Seen(reading(1.0, {})))[-1] == "The server has no queues."


# Lines and JSON.


def test_json_is_the_answer_to_info_with_rates_and_latencies(server: EmbeddedServer) -> None:
    with Client(server.url) as client:
        client.push({"jobtype": "work", "args": [], "queue": "mails"})
        client.push({"jobtype": "work", "args": [], "queue": "images"})
        client.remove_queues("images")
    done = call("top", "--json", *FAST, url=server.url)
    assert (done.code, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    rates, latencies = found.pop("rates"), found.pop("latencies")
    info = json.loads(call("info", "--json", url=server.url).stdout)
    assert found.keys() == info.keys()
    assert found["faktory"] == info["faktory"]
    assert found["server"].keys() == info["server"].keys()
    assert latencies.keys() == {"mails"}
    assert latencies["mails"] > 0
    assert rates.keys() == {"seconds", "pushed", "processed", "failed", "commands"}
    assert rates["seconds"] >= 0.1
    assert (rates["pushed"], rates["processed"], rates["failed"]) == (0, 0, 0)
    assert rates["commands"] > 0


def test_json_measures_what_happens_meanwhile(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(seconds: float) -> None:
        assert seconds == 1.0
        with Client(server.url) as client:
            client.push_bulk({"jobtype": "work", "args": [], "retry": 1} for _ in range(10))
            for number in range(4):
                job = client.fetch("default")
                assert job is not None
                if number:
                    client.ack(job["jid"])
                else:
                    client.fail(job["jid"], ValueError("no"))

    monkeypatch.setattr(top.time, "sleep", meanwhile)
    rates = json.loads(call("top", "--json", url=server.url).stdout)["rates"]
    seconds = rates["seconds"]
    assert [round(rates[name] * seconds) for name in ("pushed", "processed", "failed")] == [
        *(10, 4, 1)
    ]


def test_lines_without_a_terminal(server: EmbeddedServer) -> None:
    with Client(server.url) as client:
        client.push({"jobtype": "work", "args": []})
    done = call("top", "-n", "2", *FAST, url=server.url)
    assert (done.code, done.stderr) == (0, "")
    first, second, rest = done.stdout.split("\n\n", 5)[0], done.stdout, done.stdout[-1]
    title = rf"Faktory 1\.10\.0 at 127\.0\.0\.1:{server.port}, up \S+ s +\d{{4}}-\d\d-\d\d [\d:]+"
    assert re.fullmatch(title, first)
    assert second.count("QUEUE ") == 2
    assert second.count("default ") == 2
    assert rest == "\n"
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("flags", "env"), [(("--plain",), {}), ((), {"TERM": "dumb"}), ((), {"TERM": ""})]
)
def test_lines_on_a_terminal(
    server: EmbeddedServer, flags: tuple[str, ...], env: dict[str, str]
) -> None:
    done = call_on_terminal("top", "-n", "1", *flags, url=server.url, env=env)
    assert done.code == 0
    assert "The server has no queues." in done.stdout
    assert "\x1b" not in done.stdout
    assert "faktory-worker[cli]" not in done.stdout


def test_lines_on_a_terminal_without_rich_say_how_to_get_a_screen(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "has_rich", lambda: False)
    done = call_on_terminal("top", "-n", "1", url=server.url)
    assert done.code == 0
    assert "pip install 'faktory-worker[cli]'" in done.stdout
    assert "The server has no queues." in done.stdout
    assert "\x1b" not in done.stdout


def test_lines_end_when_nobody_reads_them(server: EmbeddedServer) -> None:
    command = [sys.executable, "-m", "faktory", "top", *FAST, "--url", server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"Faktory")
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_lines_go_on_when_the_server_is_back(
    server: EmbeddedServer, wait_until: WaitUntil, run: Callable[..., Any]
) -> None:
    process = run("faktory", "top", *FAST, url=server.url)
    wait_until(lambda: process.printed)
    server.stop()
    wait_until(lambda: process.said)
    count = process.printed.count("QUEUE") + process.printed.count("no queues")
    server.start()
    with Client(server.url) as client:
        client.push({"jobtype": "work", "args": []})
    wait_until(lambda: "default " in process.printed)
    assert count
    process.send(signal.SIGINT)
    assert process.wait() == 0
    [line] = process.said.splitlines()
    assert line.startswith("no answer, trying again: ")


def test_a_queue_that_is_not_there_is_an_error(server: EmbeddedServer) -> None:
    with Client(server.url) as client:
        client.push({"jobtype": "work", "args": [], "queue": "images"})
        client.push({"jobtype": "work", "args": [], "queue": "mails"})
    done = call("top", "imags", "-n", "1", url=server.url)
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.endswith("Did you mean 'images'?\n")
    assert "mails" not in call("top", "images", "-n", "1", url=server.url).stdout


@pytest.mark.parametrize(
    "flags", [("-d", "0"), ("-d", "0.01"), ("-d", "nan"), ("-d", "x"), ("-n", "0"), ("-n", "-1")]
)
def test_a_wrong_number_is_wrong_usage(flags: tuple[str, ...]) -> None:
    done = call("top", *flags, url="tcp://127.0.0.1:1")
    assert done.code == 2
    assert f"{flags[1]!r} is not a " in done.stderr


# On a terminal.

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")


@pytest.fixture
def watch(server: EmbeddedServer, wait_until: WaitUntil) -> Iterator[Callable[..., Terminal]]:
    """`watch(*flags, columns=80, ...)`: start top on a terminal, and wait for its first screen."""
    pytest.importorskip("rich", reason="needs the extra cli")
    with ExitStack() as stack:

        def watch(
            *flags: str, url: str = server.url, env: dict[str, str] | None = None, **size: int
        ) -> Terminal:
            environment = {**_environment(url, {"TERM": "xterm-256color", **(env or {})})}
            for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "COLUMNS", "LINES"):
                if name not in (env or {}):
                    environment.pop(name, None)
            terminal = Terminal("faktory", "top", *flags, env=environment, **size)
            stack.enter_context(terminal)
            wait_until(lambda: "q ends it" in terminal.text or terminal.process.poll() is not None)
            return terminal

        yield watch


def check_restored(terminal: Terminal) -> None:
    """Check that the terminal is as it was: screen, cursor, line wrap, settings."""
    assert terminal.raw.endswith(b"\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l")
    assert terminal.modes == {"7", "25"}
    assert terminal.after == terminal.before


def push(server: EmbeddedServer, count: int, queue: str = "default") -> None:
    with Client(server.url) as client:
        client.push_bulk({"jobtype": "work", "args": [], "queue": queue} for _ in range(count))


def test_the_screen_follows_the_server(
    server: EmbeddedServer, watch: Callable[..., Terminal], wait_until: WaitUntil
) -> None:
    terminal = watch(*FAST)
    assert "1049" in terminal.modes
    assert "25" not in terminal.modes
    assert "The server has no queues." in terminal.text
    push(server, 1234)
    push(server, 1, "mails")
    wait_until(lambda: re.search(r"^default +1,234 ", terminal.text, re.M))
    wait_until(lambda: re.search(r"^mails +1 ", terminal.text, re.M))
    assert "enqueued        1,235  in 2 queues" in terminal.text
    assert "none is connected" in terminal.text
    assert len(terminal.screen) == 24
    with Client(server.url) as client:
        client.remove_queues("default")
    wait_until(lambda: "default" not in terminal.text)
    assert "mails" in terminal.text
    terminal.type(b"q")
    assert terminal.wait() == (0, "")
    check_restored(terminal)


@pytest.mark.parametrize(
    "end",
    [
        *(lambda terminal, key=key: terminal.type(key) for key in (b"q", b"Q", b"xyzq", b"\x03")),
        *(
            lambda terminal, number=number: terminal.process.send_signal(number)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
        ),
    ],
    ids=["q", "Q", "xyzq", "Ctrl-C", "INT", "TERM", "HUP", "QUIT"],
)
def test_it_ends_by_a_key_or_a_signal_and_restores_the_terminal(
    watch: Callable[..., Terminal], end: Callable[[Terminal], None]
) -> None:
    terminal = watch("-d", "60")
    end(terminal)
    assert terminal.wait() == (0, "")
    check_restored(terminal)


def test_it_ends_at_once_while_the_server_does_not_answer(
    server: EmbeddedServer, watch: Callable[..., Terminal], wait_until: WaitUntil
) -> None:
    terminal = watch(*FAST)
    server.hold("INFO")
    count = len(server.commands)
    wait_until(lambda: len(server.commands) > count)
    wait_until(lambda: "waiting for one" in terminal.text)
    terminal.type(b"q")
    assert terminal.wait() == (0, "")
    check_restored(terminal)


def test_the_screen_has_the_size_of_the_terminal(
    server: EmbeddedServer, watch: Callable[..., Terminal], wait_until: WaitUntil
) -> None:
    for number in range(40):
        push(server, number + 1, f"queue-{number:02}")
    terminal = watch(*FAST)
    wait_until(lambda: re.search(r"^and 27 more queues", terminal.text, re.M))
    terminal.resize(120, 60)
    wait_until(lambda: re.search(r"^queue-00 +1 ", terminal.text, re.M))
    terminal.resize(40, 12)
    wait_until(lambda: re.search(r"^and 39 more queues", terminal.text, re.M))
    assert max(map(len, terminal.screen)) <= 40
    terminal.resize(80, 24)
    wait_until(lambda: re.search(r"^and 27 more queues", terminal.text, re.M))
    terminal.type(b"q")
    assert terminal.wait() == (0, "")


def test_a_server_that_is_away_is_named_and_comes_back(
    server: EmbeddedServer, watch: Callable[..., Terminal], wait_until: WaitUntil
) -> None:
    push(server, 3)
    terminal = watch(*FAST)
    server.stop()
    wait_until(lambda: re.search(r"^no answer since [\d:]+, trying again: ", terminal.text, re.M))
    wait_until(lambda: "nothing listens on" in terminal.text)
    assert re.search(r"^default +3 ", terminal.text, re.M)
    server.start()
    wait_until(lambda: "no answer" not in terminal.text)
    terminal.type(b"q")
    assert terminal.wait() == (0, "")
    check_restored(terminal)


def test_a_password_that_is_refused_later_ends_it(
    server: EmbeddedServer, watch: Callable[..., Terminal]
) -> None:
    terminal = watch(*FAST)
    server.stop()
    with EmbeddedServer(bind=f"127.0.0.1:{server.port}", password="geheim"):
        code, error = terminal.wait()
    assert code == 4
    assert "password" in error
    assert error.count("\n") == 1
    check_restored(terminal)


def test_ctrl_z_restores_the_terminal_until_it_goes_on(
    server: EmbeddedServer, watch: Callable[..., Terminal], wait_until: WaitUntil
) -> None:
    terminal = watch("-d", "60")
    terminal.type(b"\x1a")
    # No shell could continue it, so the system does not stop it.
    enter = b"\x1b[?1049h"
    wait_until(lambda: terminal.raw.count(enter) == 2)
    wait_until(lambda: terminal.raw.rpartition(enter)[2].count(b"q ends it"))
    assert terminal.raw.count(b"\x1b[?1049l") == 1
    assert "The server has no queues." in terminal.text
    terminal.type(b"q")
    assert terminal.wait() == (0, "")
    check_restored(terminal)


@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}, {"COLORTERM": "truecolor"}])
def test_colours_as_the_terminal_has_them(
    server: EmbeddedServer, watch: Callable[..., Terminal], env: dict[str, str]
) -> None:
    push(server, 1)
    terminal = watch("-n", "1", env=env)
    assert terminal.wait() == (0, "")
    codes = set(re.findall(rb"\x1b\[([0-9;]+)m", terminal.raw))
    assert b"1" in codes  # bold, of the title
    assert (b"33" in codes) == ("NO_COLOR" not in env)


def test_what_has_not_changed_is_not_written() -> None:
    pytest.importorskip("rich", reason="needs the extra cli")
    from faktory.cli.tools.screen import Screen

    reader, writer = os.pipe()
    with open(writer, "w") as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        screen = Screen()
        title, line = [("Faktory", "title")], [("default  1", "")]
        screen.draw([title, line])
        assert b"default  1" in os.read(reader, 65536)
        screen.draw([title, line])
        screen.draw([title, [("default  2", "")]])
        assert os.read(reader, 65536) == b"\x1b[?2026h\x1b[2;1Hdefault  2\x1b[K\x1b[?2026l"
        screen.draw([title])
        assert os.read(reader, 65536) == b"\x1b[?2026h\x1b[2;1H\x1b[K\x1b[?2026l"
        os.set_blocking(reader, False)
        screen.draw([title])
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
    os.close(reader)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_leaves_no_terminal_half_restored(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    pytest.importorskip("rich", reason="needs the extra cli")
    from faktory.cli.tools.screen import Ended, Screen

    class Signalled(Screen):
        def _restore(self) -> None:
            signal.raise_signal(number)
            super()._restore()

    reader, writer = os.pipe()
    with open(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises((Ended, KeyboardInterrupt)), Signalled():
            signal.raise_signal(number)
    assert os.read(reader, 65536).endswith(b"\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l")
    os.close(reader)


def test_an_error_of_its_own_restores_the_terminal(
    server: EmbeddedServer, tmp_path: Path, watch: Callable[..., Terminal]
) -> None:
    (tmp_path / "broken.py").write_text(
        "from faktory.cli.tools import top\n"
        "def broken(*args, **kwargs):\n"
        "    top.frame = lambda *args: 1 / 0\n"
        "    return shown(*args, **kwargs)\n"
        "shown, top.frame = top.frame, broken\n"
    )
    terminal = watch(*FAST, "-r", str(tmp_path / "broken.py"))
    code, error = terminal.wait()
    assert code == 1
    assert error.endswith("ZeroDivisionError: division by zero\n")
    check_restored(terminal)
