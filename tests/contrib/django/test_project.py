"""The tests of the project, by Django's own test runner; and its checks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from .support import Project


def test_the_tests_of_the_project_pass(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.env["DATABASE"] = ":memory:"
    output = project.run("test")
    count = re.search(r"Ran (\d+) tests", output)
    assert count is not None, output
    assert int(count[1]) > 40
    assert not project.trap.exists()


def test_tasks_go_through_the_outbox(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.env |= {"DATABASE": ":memory:", "APPS": "faktory.contrib.django.outbox"}
    output = project.run("test", "shop.tests.OutboxTests")
    assert "Ran 3 tests" in output
    assert "skipped" not in output


WRONG = [
    ({"OPTIONS": {"url": "nonsense://x"}}, "faktory.E002", "nonsense"),
    ({"OPTIONS": {"enqueue_on_commit": "outbox"}}, "faktory.E004", "faktory.contrib.django.outbox"),
    ({"OPTIONS": {"enqueue_on_commit": ["default"]}}, "faktory.E005", "['default']"),
    ({"OPTIONS": {"priority_queues": {"1": "not a queue"}}}, "faktory.E001", "'not a queue'"),
    ({"QUEUES": ["default", "my mail"]}, "faktory.E001", "'my mail'"),
]

CHECK = """
import json, sys
from django.conf import settings
from django.core.management import CommandError, call_command
from django.test import override_settings

for changes in json.loads(sys.stdin.read()):
    default = {**settings.TASKS["default"], **changes}
    with override_settings(TASKS={**settings.TASKS, "default": default}):
        try:
            call_command("check")
        except CommandError as error:
            print(json.dumps(str(error)))
"""


def test_check_finds_what_is_wrong_without_a_server(project: Project, closed_port: int) -> None:
    project.env["FAKTORY_URL"] = f"tcp://127.0.0.1:{closed_port}"
    assert "no issues" in project.run("check")
    output = project.python(CHECK, given=json.dumps([changes for changes, _, _ in WRONG]))
    for line, (_, found, quoted) in zip(output.splitlines(), WRONG, strict=True):
        assert found in json.loads(line)
        assert quoted in json.loads(line)
    project.env["QUEUES"] = ",my mail"
    assert "faktory.E001" in project.run("check", code=1)


def test_the_app_works_without_tasks_in_django(tmp_path: Path) -> None:
    """On Django 5.2 without django-tasks jobs of this package are found all the same."""
    project = Project(tmp_path)
    project.env["DJANGO_SETTINGS_MODULE"] = "alone"
    (tmp_path / "alone.py").write_text("INSTALLED_APPS = ['faktory.contrib.django', 'stock']")
    (tmp_path / "stock").mkdir()
    (tmp_path / "stock/__init__.py").touch()
    (tmp_path / "stock/jobs.py").write_text("import faktory\n@faktory.job\ndef count(): pass\n")
    program = """
import sys
sys.modules["django_tasks"] = sys.modules["django.tasks"] = None
import django
django.VERSION = (5, 2, 0, "final", 0)
django.setup()
from faktory.jobs import registry
print(registry.names(), registry.resolver)
from django.core.exceptions import ImproperlyConfigured
try:
    from faktory.contrib.django import FaktoryBackend
except ImproperlyConfigured as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=project.env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("['count'] None\n")
    assert "pip install django-tasks" in done.stdout
