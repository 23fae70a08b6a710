"""`manage.py faktory`: tasks and jobs of a project, run by a worker in a process of its own."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from faktory import Client
from faktory.server import EmbeddedServer

from ...support import half
from .support import PROJECT, Project, jobs_in

Wait = Callable[..., object]


def push(client: Client, jobtype: str, *args: object, **fields: object) -> str:
    return client.push({"jobtype": jobtype, "args": list(args), **fields})


def test_tasks_and_jobs_of_all_apps_run(project: Project, client: Client) -> None:
    project.python("""
import asyncio
from shop import jobs, tasks
from mail.tasks.letters import send
tasks.note.enqueue("sync", suffix="!")
tasks.letter.enqueue("ada", "bob", subject="hi")
tasks.renamed.enqueue("x")
tasks.anote.enqueue("async")
tasks.committed.enqueue("committed")
asyncio.run(tasks.note.aenqueue("by aenqueue"))
send.enqueue("eve")
jobs.count.perform_async("stock")
jobs.acount.perform_async("stock")
jobs.Recount.perform_async("stock")
""")
    output = project.run("faktory", "--burst", "-c", "3")
    assert project.notes() == [
        "async",
        "by aenqueue",
        "committed",
        "counted stock",
        "counted stock on the loop",
        "recounted stock",
        "renamed x",
        "sent to eve",
        "sync!",
        "to ada ['bob'] {'subject': 'hi'}",
    ]
    assert jobs_in(client.info()) == {"Retries": 0, "Dead": 0}, output


def test_what_is_not_a_task_is_never_called_and_not_tried_again(
    project: Project, client: Client
) -> None:
    push(client, "os.system", f"touch {project.trap}")
    push(client, "shop.tasks.plain")
    push(client, "shop.trap.spring")
    push(client, "os.getcwd", retry=0)  # dropped with its first failure
    push(client, "shop.tasks.added_tomorrow")  # by a program that is newer than this worker
    output = project.run("faktory", "--burst", "-c", "1")
    assert len(re.findall("fail in .*: SuspiciousOperation", output)) == 4
    assert len(re.findall("is buried", output)) == 3
    assert len(re.findall("fail in .*: UnknownJob", output)) == 1
    assert jobs_in(client.info()) == {"Retries": 1, "Dead": 3}
    assert not project.trap.exists()
    assert project.notes() == []


ODD = """
import importlib.util, sys

class Slotted:
    __slots__ = ()

sys.modules["odd.thing"] = Slotted()
spec = importlib.util.find_spec("shop.trap")
spec.loader = importlib.util.LazyLoader(spec.loader)
sys.modules["shop.trap"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["shop.trap"])
"""


def test_a_job_loads_no_lazy_module_and_runs_no_program(project: Project, client: Client) -> None:
    (project.folder / "odd").mkdir()
    (project.folder / "odd/__init__.py").touch()
    (project.folder / "odd/tasks").mkdir()
    (project.folder / "odd/tasks/__init__.py").write_text(ODD)
    (project.folder / "odd/tasks/__main__.py").write_text("import shop.trap\nshop.trap.spring()\n")
    project.env |= {"APPS": "odd", "PYTHONPATH": str(project.folder)}
    for jobtype in ("odd.thing.x", "shop.trap.spring", "odd.tasks.__main__.x"):
        push(client, jobtype)
    output = project.run("faktory", "--burst", "-c", "1")
    assert len(re.findall("fail in .*: SuspiciousOperation", output)) == 3
    assert jobs_in(client.info()) == {"Retries": 0, "Dead": 3}
    assert not project.trap.exists()


def test_a_real_server_buries_what_is_not_a_task(tmp_path: Path, real_server_url: str) -> None:
    project = Project(tmp_path, real_server_url)
    project.migrate()
    with Client(real_server_url) as client:
        queue = "django-refused"
        before = jobs_in(client.info())
        jid = push(client, "shop.tasks.plain", queue=queue)
        project.python(
            f"from shop.tasks import note\nnote.using(queue_name='bulk').enqueue('{jid}')"
        )
        output = project.run("faktory", "--burst", "-c", "1", "-q", queue, "-q", "bulk")
        assert "SuspiciousOperation" in output
        after = jobs_in(client.info())
        assert after["Retries"] == before["Retries"]
        assert after["Dead"] == before["Dead"] + 1
        client.discard("dead", jids=[jid])
    assert project.notes() == [jid]


def test_attempts_are_counted_in_the_context_of_a_task(
    project: Project, server: EmbeddedServer, client: Client
) -> None:
    """Up to 1000: a job that claims many takes no memory."""
    many = push(client, "shop.tasks.attempt", "many", failure={"retry_count": 100_000})
    jid = push(client, "shop.tasks.attempt", "hi")
    assert "the first attempt" in project.run("faktory", "--burst", "-c", "1")
    server.travel(3600)
    project.run("faktory", "--burst", "-c", "1")
    assert project.notes() == [
        f"hi 1 {jid} RUNNING",
        f"hi 2 {jid} RUNNING",
        f"many 1000 {many} RUNNING",
    ]


def test_every_argument_is_that_of_faktory_worker(project: Project, client: Client) -> None:
    assert "--processes" in project.run("faktory", "--help")
    assert "--processes" in project.run("help", "faktory")
    assert "see faktory-worker --help" in project.run("faktory", "--nonsense", code=2).lower()
    push(client, "shop.tasks.note", "kept")
    push(client, "shop.tasks.letter", "ada", queue="mail")
    project.run("faktory", "-q", "mail", "--burst", "--settings", "settings", "--skip-checks")
    assert project.notes() == ["to ada [] {}"]


def test_all_queues_are_fetched_in_the_order_of_priorities(
    project: Project, client: Client
) -> None:
    for queue in ("low", "bulk", "default", "mail", "stock", "critical"):
        push(client, "shop.tasks.note", queue, queue=queue)
    project.run("faktory", "--burst", "-c", "1")
    first, *others, last = project.notes(order="id")
    assert (first, last) == ("critical", "low")
    assert sorted(others) == ["bulk", "default", "mail", "stock"]


def test_the_server_of_the_settings_is_the_worker_s(
    project: Project, server: EmbeddedServer, client: Client, closed_port: int
) -> None:
    project.env["FAKTORY_URL"] = f"tcp://127.0.0.1:{closed_port}"
    project.configure(url=server.url)
    project.python("""
import asyncio
from shop.tasks import note
note.enqueue("by the pool")
asyncio.run(note.aenqueue("on the loop"))
""")
    project.run("faktory", "--burst", "-c", "1")
    assert project.notes() == ["by the pool", "on the loop"]


def test_it_runs_from_any_folder_and_a_mistake_in_the_settings_ends_it(project: Project) -> None:
    project.run("faktory", "--burst", "-c", "1", cwd=project.folder)
    project.configure(url="nonsense://x")
    assert "faktory.E002" in project.run("faktory", "--burst", code=1)
    output = project.python(
        "from django.core.management import call_command\ncall_command('faktory')", code=1
    )
    assert "replaces the process" in output


@half(line=["append(apps)", "insert(0, apps)"], given=[False, True])
def test_it_looks_where_manage_has_added_to(
    project: Project, client: Client, line: str, given: bool
) -> None:
    """Also with --pythonpath, before which the folder of manage.py is no longer the first."""
    home = shutil.copytree(PROJECT, project.folder / "home")
    (home / "apps").mkdir()
    (home / "mail").rename(home / "apps/mail")
    manage = home / "manage.py"
    first = f"import sys\napps = __file__[:-9] + 'apps'\nsys.path.{line}\n"
    manage.write_text(first + manage.read_text())
    options = [f"--pythonpath={project.folder}"] if given else []
    push(client, "shop.tasks.note", "found")
    command = [sys.executable, str(manage), "faktory", "--burst", "-c", "1", *options]
    done = subprocess.run(
        command, cwd=project.folder, env=project.env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert project.notes() == ["found"]


def test_doctor_sees_the_tasks(project: Project) -> None:
    output = project.python("""
import sys
from faktory.cli.tools.main import main
sys.exit(main(["doctor", "--watch", "0.1", "-r", "faktory.contrib.django.worker"]))
""")
    assert "shop.tasks.alook" in output
    assert "their queues: bulk, critical, default, its-own, low, mail, stock, variant" in output


@pytest.mark.skipif(not hasattr(signal, "SIGTSTP"), reason="needs signals of Unix")
def test_its_processes_and_signals_are_those_of_faktory_worker(
    project: Project, client: Client, wait_until: Wait
) -> None:
    for number in range(20):
        push(client, "shop.tasks.note", str(number))
    with project.start("faktory", "--processes", "2", "-c", "2") as process:
        wait_until(lambda: len(project.notes()) == 20)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "2 workers" in output


def test_tasks_run_in_processes_too(project: Project, client: Client) -> None:
    push(client, "shop.tasks.note", "one")
    push(client, "mail.tasks.letters.send", "eve", queue="mail")
    push(client, "os.getcwd")
    project.python("""
import faktory
from faktory.jobs import registry
for name in registry.names():
    if registry.find(name).is_async:  # it needs threads
        del registry._jobs[name]
worker = faktory.Worker(queues=["default", "mail"], use_threads=False, burst=True)
worker.run()
""")
    assert project.notes() == ["one", "sent to eve"]
    assert jobs_in(client.info()) == {"Retries": 0, "Dead": 1}
