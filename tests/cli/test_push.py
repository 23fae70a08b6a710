from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from contextlib import contextmanager

import pytest

from faktory.cli.tools import output
from faktory.server import EmbeddedServer

from .support import call, call_on_terminal, run


def lines(*jobs):
    return "".join(json.dumps(job) + "\n" for job in jobs)


def enqueued(client):
    return client.info()["faktory"]["queues"]


def test_a_job_is_pushed_and_its_jid_printed(server, client):
    done = call("push", "resize", "cat.png", "200", '"200"', "[1, null]", "-q", "q", url=server.url)
    assert done.code == 0
    assert re.fullmatch(r"[0-9a-f]{24}\n", done.stdout)
    job = client.fetch("q")
    assert job["jid"] == done.stdout.strip()
    assert job["args"] == ["cat.png", 200, "200", [1, None]]
    assert job["retry"] == 25


def test_on_a_terminal_the_jid_is_printed_too(server, client):
    done = call_on_terminal("push", "resize", url=server.url)
    assert done.code == 0
    assert client.fetch("default")["jid"] == done.stdout.strip()


def test_every_field_of_a_job_has_a_flag(server, client):
    flags = {
        "retry": "3",
        "reserve-for": "600",
        "backtrace": "5",
        "custom": '{"a": 1}',
        "jid": "abcdefgh",
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    done = call("push", "resize", *words, "--json", url=server.url)
    assert json.loads(done.stdout) == {"jid": "abcdefgh"}
    job = client.fetch("default")
    assert (job["retry"], job["reserve_for"], job["backtrace"]) == (3, 600, 5)
    assert job["custom"] == {"a": 1}


@pytest.mark.parametrize("flags", [("--in", "60"), ("--at", "2100-01-02T03:04:05Z")])
def test_a_job_can_be_scheduled(server, client, flags):
    assert call("push", "resize", *flags, url=server.url).code == 0
    assert client.info()["faktory"]["sets"]["scheduled"] == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "name the job type, or a file of jobs by -f."),
        (["x", "-f", "-"], "with -f each job has its own fields: leave out x."),
        (
            ["-q", "x", "--in", "5", "-f", "-"],
            "with -f each job has its own fields: leave out --queue, --in.",
        ),
        (["-f", "gone.jsonl"], "-f gone.jsonl: No such file or directory."),
        (["-f", "."], "-f .: Is a directory."),
        (["x", "--in", "1", "--at", "2100-01-02T03:04:05Z"], "--in and --at exclude each other"),
        (["x", "--at", "tomorrow"], "at is 'tomorrow': a time as text is RFC 3339"),
        (["x", "--in", "soon"], "'soon' is not a number of seconds"),
        (["x", "--custom", "[1]"], "--custom [1]: it must be a JSON object."),
        (["x", "-q", "a b"], "a queue's name has letters"),
        (["x", "9007199254740993"], "args[0] is "),
    ],
)
def test_an_invalid_job_is_wrong_usage(server, client, tmp_path, flags, message):
    done = call("push", *flags, url=server.url, cwd=tmp_path)
    assert done.code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert enqueued(client) == {}


def test_a_push_that_the_server_refuses_is_an_error():
    with EmbeddedServer(enterprise=True) as server:
        unique = ["push", "work", "--custom", '{"unique_for": 60}']
        assert call(*unique, url=server.url).code == 0
        done = call(*unique, url=server.url)
    assert done == (1, "", "python -m faktory push: NOTUNIQUE Job not unique\n")


def test_many_jobs_come_from_a_file(server, client, tmp_path):
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text(lines(*({"jobtype": "work", "args": [n]} for n in range(2500))))
    assert call("push", "-f", str(jobs), url=server.url) == (0, "pushed 2,500 jobs\n", "")
    assert enqueued(client) == {"default": 2500}
    assert client.fetch("default")["args"] == [0]


def test_many_jobs_come_from_standard_input(server, client):
    jobs = lines({"jobtype": "work", "args": []}, {"jobtype": "work", "args": [], "queue": "q"})
    done = run("push", "-f", "-", "--json", url=server.url, stdin=jobs)
    assert json.loads(done.stdout) == {"pushed": 2, "refused": {}}
    assert enqueued(client) == {"default": 1, "q": 1}


def test_a_file_may_begin_with_a_byte_order_mark(server, client, tmp_path):
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text(lines(*[{"jobtype": "work", "args": []}] * 2), "utf-8-sig")
    assert call("push", "-f", str(jobs), url=server.url) == (0, "pushed 2 jobs\n", "")
    jobs.write_bytes(b"\xef\xbb\xbf\r\n")
    assert call("push", "-f", str(jobs), url=server.url) == (0, "pushed 0 jobs\n", "")
    assert enqueued(client) == {"default": 2}


def test_progress_is_shown_on_a_terminal(server, client, tmp_path, monkeypatch):
    monkeypatch.setattr(output, "REDRAW_INTERVAL", 0.0)
    jobs = tmp_path / "jobs.jsonl"
    jobs.write_text(lines(*({"jobtype": "work", "args": [n]} for n in range(2500))))
    env = {"NO_COLOR": ""}
    done = call_on_terminal("push", "-f", "jobs.jsonl", url=server.url, cwd=tmp_path, env=env)
    assert done.code == 0
    assert done.stdout.endswith("\r\x1b[Kpushed 2,500 jobs\n")
    assert re.search(r"\rpushing: 2,000 jobs, [\d,]+ a second, 80%", done.stdout)
    assert enqueued(client) == {"default": 2500}


def test_invalid_lines_are_reported_by_number_and_the_others_pushed(server, client):
    jobs = (
        lines({"jobtype": "work", "args": []})
        + "no json\n\n[1]\n"
        + lines({"jobtype": "work"}, {"jobtype": "work", "args": [2**60], "jid": "abcdefgh"})
        + '{"jobtype": "work", "args": [1]}'  # no line end
    )
    done = run("push", "-f", "-", url=server.url, stdin=jobs)
    assert done.code == 1
    assert done.stdout == "pushed 2 jobs\n"
    errors = done.stderr.splitlines()
    assert [line.split(":")[0] for line in errors] == [
        f"line {number} is not pushed" for number in (2, 4, 5, 6)
    ]
    assert "the job has no 'args'" in errors[2]
    assert "args[0]" in errors[3]
    done = run("push", "-f", "-", "--json", url=server.url, stdin=jobs)
    assert done.code == 1
    result = json.loads(done.stdout)
    assert result["pushed"] == 2
    assert sorted(result["refused"]) == ["2", "4", "5", "6"]
    assert enqueued(client) == {"default": 4}


def test_a_broken_connection_is_reported_with_the_lines_in_doubt(server, client):
    jobs = lines(*({"jobtype": "work", "args": [n]} for n in range(2500)))
    server.drop_after("PUSHB")
    done = run("push", "-f", "-", url=server.url, stdin="\n" + jobs)
    assert done.code == 1
    assert done.stdout == ""
    assert "lines 2 to 1001 may or may not be pushed, nothing after them is." in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_unknown_outcome_has_another_exit_code_than_an_unreachable_server(server):
    server.drop_after("PUSH")
    done = call("push", "work", url=server.url)
    assert done.code == 1
    assert "may or may not" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_interrupt_reports_how_many_jobs_were_pushed(server, wait_until, client):
    with subprocess.Popen(
        [sys.executable, "-m", "faktory", "push", "-f", "-", "--url", server.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(lines(*({"jobtype": "work", "args": []} for _ in range(1500))))
            process.stdin.flush()
            wait_until(lambda: enqueued(client) == {"default": 1000}, 15)
            process.send_signal(2)
            error = process.stderr.read()
            assert process.wait(15) == 130
        finally:
            process.kill()
    # The answer to the first thousand may not have been read yet.
    assert re.fullmatch(
        "python -m faktory push: interrupted; (0|1,000) jobs are pushed, and perhaps some of the "
        "next 1,000. Go on with line (1|1001).\n",
        error,
    )


def test_an_interrupt_says_how_to_go_on_with_a_file(server, client, tmp_path, monkeypatch):
    def interrupt(count: int, part: float | None) -> None:
        raise KeyboardInterrupt

    @contextmanager
    def progress(doing):
        yield interrupt

    monkeypatch.setattr(output, "progress", progress)
    jobs = tmp_path / "my jobs.jsonl"
    jobs.write_text("\nno json\n" + lines(*[{"jobtype": "work", "args": []}] * 2500))
    done = call("push", "-f", "my jobs.jsonl", url=server.url, cwd=tmp_path)
    assert done.code == 130
    refused, interrupted = done.stderr.splitlines()
    assert refused.startswith("line 2 is not pushed: ")
    assert interrupted == (
        "python -m faktory push: interrupted; 1,000 jobs are pushed, and perhaps some of the next "
        "1,000. Go on with line 1003: tail -n +1003 'my jobs.jsonl' | faktory-worker push -f -"
    )
    assert enqueued(client) == {"default": 1000}


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("{bad", """'"{bad"'"""),
        ("[1, 2", """'"[1, 2"'"""),
        (" [draft] é", """'" [draft] é"'"""),
        ('"open', """'"\\"open"'"""),
    ],
)
def test_an_argument_that_begins_as_json_and_is_none_is_refused(server, client, text, remedy):
    done = call("push", "work", "ok", text, url=server.url)
    assert done.code == 2
    begin = text.lstrip()[0]
    assert done.stderr.startswith(
        f"python -m faktory push: {text} begins with {begin} and is not valid JSON: "
    )
    assert done.stderr.endswith(f". To push it as text: {remedy}\n")
    assert enqueued(client) == {}
    assert call("push", "work", shlex.split(remedy)[0], url=server.url).code == 0
    assert client.fetch("default")["args"] == [text]
