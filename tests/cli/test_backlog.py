"""What `doctor` says of jobs that wait, from jobs that do."""

from __future__ import annotations

import threading

from faktory import Client

from .terminal import examine, told


def test_a_backlog_that_nobody_takes_is_a_warning(server):
    with Client(server.url) as client:
        client.push({"jobtype": "work", "args": [], "queue": "mail"})
        server.travel(7200)
        client.push({"jobtype": "work", "args": [], "queue": "mail"})
        client.push({"jobtype": "work", "args": [], "queue": "fresh"})
    code, found, _ = examine(url=server.url)
    level, text, remedy = told(found["queues"])
    assert (code, level) == (0, "warning")
    assert text.startswith("nobody seems to listen to: mail (2, for 2 h). In 0.2 s of watching ")
    assert "No worker at all is connected." in text
    assert remedy.startswith("Start a worker with -q mail; if it is paused, python -m faktory res")


def test_a_worker_that_is_connected_is_not_overlooked(server):
    with Client(server.url, worker_id="abcdefgh") as worker:
        worker.push({"jobtype": "work", "args": []})
        server.travel(50)  # a worker that says nothing for a minute is forgotten
        worker.beat()
        server.travel(50)
        _, found, _ = examine(url=server.url)
    assert found["queues"]["level"] == "warning"
    assert "No worker at all" not in found["queues"]["text"]


def test_a_backlog_that_is_being_taken_is_in_order(server):
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
        code, found, _ = examine("--watch", "0.5", url=server.url)
        over.set()
        thread.join()
    assert code == 0
    level, text, _ = told(found["queues"])
    assert level == "ok"
    assert text.endswith("in 1 queue, and those that wait for long are being taken")


def test_a_server_that_does_not_say_how_long_jobs_wait_is_noted(server):
    with Client(server.url) as client:
        client.push({"jobtype": "work", "args": [], "at": "2100-01-01T00:00:00Z"})
        client.requeue("scheduled")  # it was never enqueued, so it does not say when
    code, found, _ = examine(url=server.url)
    level, text, remedy = told(found["queues"])
    assert (code, level) == (0, "note")
    assert text.startswith("the server does not say how long jobs wait")
    assert remedy == "See which queues grow: python -m faktory queues"


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
        code, found, _ = examine("-r", "app", url=server.url, cwd=tmp_path)
        assert found["program"]["text"] == (
            "job types: Resize, send; a worker for all needs -q images -q mail"
        )
        assert (code, found["job types"]["level"]) == (0, "ok")
        client.push({"jobtype": "Unknown", "args": [], "queue": "others"})
        code, found, _ = examine("-r", "app", url=server.url, cwd=tmp_path)
        level, text, remedy = told(found["job types"])
        assert (code, level) == (0, "warning")
        assert "no job type of this program is declared for: others. They may be of" in text
        assert "the server shows no job's type without handing the job out" in text
        assert remedy.startswith("A worker of this program that is given one of these queues")
        assert client.info()["faktory"]["queues"] == {
            "emptied": 0,
            "images": 1,
            "mail": 1,
            "others": 1,
        }


def test_without_a_program_it_says_that_job_types_were_not_compared(server):
    level, text, remedy = told(examine(url=server.url)[1]["job types"])
    assert level == "note"
    assert text.startswith("not compared: ")
    assert "-r MODULE" in remedy


def test_many_names_are_cut_short(server):
    with Client(server.url) as client:
        for n in range(13):
            client.push({"jobtype": "work", "args": [], "queue": f"queue-{n}"})
    server.travel(3600)
    text = examine(url=server.url)[1]["queues"]["text"]
    assert " and 3 more. In 0.2 s of watching" in text
