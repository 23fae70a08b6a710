"""The results of `doctor` for waiting jobs."""

from __future__ import annotations

import re
import threading

from faktory import Client
from faktory.cli.tools import backlog

from .support import examine, parts, run


def test_a_backlog_that_no_worker_fetches_is_a_warning(server):
    with Client(server.url) as client:
        client.push({"jobtype": "work", "args": [], "queue": "mail"})
        server.travel(7200)
        client.push({"jobtype": "work", "args": [], "queue": "mail"})
        client.push({"jobtype": "work", "args": [], "queue": "fresh"})
    code, found, _ = examine(url=server.url)
    level, text, remedy = parts(found["queues"])
    assert (code, level) == (0, "warning")
    assert re.match(
        r"no worker seems to fetch from: mail \(2, for 2 h\)\. In \d\.\d s none of ", text
    )
    assert "No worker is connected." in text
    assert remedy.startswith("Start a worker with -q mail; if it is paused, faktory-worker resume")


def test_a_connected_worker_is_not_overlooked(server):
    with Client(server.url, worker_id="abcdefgh") as worker:
        worker.push({"jobtype": "work", "args": []})
        server.travel(50)  # the server forgets a worker without a beat for a minute
        worker.beat()
        server.travel(50)
        _, found, _ = examine(url=server.url)
    assert found["queues"]["level"] == "warning"
    assert "No worker is connected" not in found["queues"]["text"]


def test_a_backlog_that_a_worker_fetches_is_in_order(server):
    over = threading.Event()
    with Client(server.url) as client:
        for _ in range(500):
            client.push({"jobtype": "work", "args": []})
            server.travel(10)

        def take():
            while not over.wait(0.02):
                client.ack(client.fetch("default")["jid"])

        thread = threading.Thread(target=take)
        thread.start()
        code, found, _ = examine(url=server.url)
        over.set()
        thread.join()
    assert code == 0
    level, text, _ = parts(found["queues"])
    assert level == "ok"
    assert text.endswith("in 1 queue, and workers fetch the old ones")


def test_a_server_that_does_not_show_how_long_jobs_wait_is_noted(server):
    with Client(server.url) as client:
        client.push({"jobtype": "work", "args": [], "at": "2100-01-01T00:00:00Z"})
        client.requeue("scheduled")  # it was never enqueued, so it has no date
    code, found, _ = examine(url=server.url)
    level, text, remedy = parts(found["queues"])
    assert (code, level) == (0, "note")
    assert text.startswith("the server does not show how long jobs wait")
    assert remedy == "See which queues grow: faktory-worker queues"


PROGRAM = """
import faktory

@faktory.job(queue="mail")
def send(): ...

class Resize(faktory.Job):
    faktory_options = {"queue": "images"}
    def perform(self): ...
"""


def test_jobs_in_a_queue_that_the_program_does_not_declare_are_a_warning(server, tmp_path):
    (tmp_path / "app.py").write_text(PROGRAM)
    with Client(server.url) as client:
        client.push({"jobtype": "send", "args": [], "queue": "mail"})
        client.push({"jobtype": "Resize", "args": [], "queue": "images"})
        client.push({"jobtype": "Unknown", "args": [], "queue": "emptied"})
        client.fetch("emptied")
        code, found, _ = examine("-r", "app", start=run, url=server.url, cwd=tmp_path)
        assert found["program"]["text"] == (
            "job types: Resize, send; a worker without -q fetches their queues: images, mail"
        )
        assert (code, found["job types"]["level"]) == (0, "ok")
        client.push({"jobtype": "Unknown", "args": [], "queue": "others"})
        code, found, _ = examine("-r", "app", start=run, url=server.url, cwd=tmp_path)
        level, text, remedy = parts(found["job types"])
        assert (code, level) == (0, "warning")
        assert "no job type of this program is declared for: others. They may have" in text
        assert "the server does not show a job's type without handing the job out" in text
        assert remedy.startswith("A worker of this program that fetches from one of these")
        assert client.info()["faktory"]["queues"] == {
            "emptied": 0,
            "images": 1,
            "mail": 1,
            "others": 1,
        }


def test_without_a_program_job_types_are_not_compared(server):
    level, text, remedy = parts(examine(url=server.url)[1]["job types"])
    assert level == "note"
    assert text.startswith("not compared: ")
    assert "-r MODULE" in remedy


def test_a_result_lists_ten_names_at_most(server):
    with Client(server.url) as client:
        for n in range(13):
            client.push({"jobtype": "work", "args": [], "queue": f"queue-{n}"})
    server.travel(3600)
    text = examine(url=server.url)[1]["queues"]["text"]
    assert " and 3 more. In 0.5 s none" in text


def test_jobs_that_wait_while_no_worker_is_connected_are_a_warning_at_once(server):
    with Client(server.url) as client:
        client.push({"jobtype": "work", "args": [], "queue": "mail"})
        code, found, _ = examine(url=server.url)
        assert (code, *parts(found["queues"])) == (
            0,
            "warning",
            "1 job waits, and no worker is connected: mail (1)",
            "Start a worker: without -q it fetches default and all queues that its jobs declare, "
            "with -q only those that it names, as -q mail.",
        )
        client.push({"jobtype": "work", "args": [], "queue": "images"})
        text = examine(url=server.url)[1]["queues"]["text"]
        assert text == "2 jobs wait, and no worker is connected: images (1), mail (1)"
    with Client(server.url, worker_id="abcdefgh"):
        assert examine(url=server.url)[1]["queues"]["level"] == "ok"


def test_reserved_jobs_of_workers_that_are_gone_are_a_warning(server):
    with Client(server.url, worker_id="abcdefgh") as worker:
        for _ in range(2):
            worker.push({"jobtype": "work", "args": []})
            worker.fetch("default")
        assert "reserved" not in examine(url=server.url)[1]
    code, found, _ = examine(url=server.url)
    level, text, remedy = parts(found["reserved"])
    assert (code, level) == (0, "warning")
    assert text == (
        "2 jobs are reserved, and no worker is connected: they come back when the reservation "
        "ends, after reserve_for at the latest (30 minutes by default). That counts as a failed "
        "attempt; a job with retry 0 is lost by it"
    )
    assert remedy.startswith("Wait, or start the worker that has them, if it is only cut off.")


def test_a_server_that_counts_no_workers_is_not_judged_by_that():
    info = {"faktory": {"tasks": {"Workers": {"size": None}, "Busy": {"size": 3}}}}
    counts = backlog.read_counts(info)
    assert counts == {"Workers": None, "Busy": 3}
    assert list(backlog.reservations(counts)) == []
    for odd in ({}, {"faktory": 5}, {"faktory": {"tasks": []}}):
        assert backlog.read_counts(odd) == {"Workers": None, "Busy": None}
