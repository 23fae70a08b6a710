"""The project beside this file, in processes of its own: Django is set up once in a process."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
PROJECT = HERE / "project"


def require_django() -> tuple[int, int]:
    """Return the version of Django; skip the test where its tasks are missing."""
    if find_spec("django") is None:
        pytest.skip("needs Django: pip install django")
    import django

    if django.VERSION < (6, 0) and find_spec("django_tasks") is None:
        pytest.skip(f"Django {django.get_version()} needs django-tasks: pip install django-tasks")
    return django.VERSION[:2]


class Project:
    """The project, with a database of its own, and a server that its jobs go to."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        require_django()
        self.folder = folder
        self.database = folder / "db.sqlite3"
        self.trap = folder / "trap"
        self.env: dict[str, str] = {
            **{name: value for name, value in os.environ.items() if "FAKTORY" not in name},
            "FAKTORY_IMPL": os.environ.get("FAKTORY_IMPL", "auto"),
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "error",
            "DATABASE": str(self.database),
            "TRAP": str(self.trap),
        }
        if url is not None:
            self.env["FAKTORY_URL"] = url

    def configure(self, **options: Any) -> None:
        """Set the OPTIONS of the default backend."""
        self.env["OPTIONS"] = json.dumps(options)

    def start(self, *args: str, cwd: Path | None = None) -> subprocess.Popen[str]:
        """Start a command of manage.py."""
        return subprocess.Popen(
            [sys.executable, str(PROJECT / "manage.py"), *args],
            cwd=cwd or PROJECT,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *args: str, code: int = 0, cwd: Path | None = None) -> str:
        """Run a command of manage.py to its end; return what it has written."""
        with self.start(*args, cwd=cwd) as process:
            output, _ = process.communicate(timeout=60)
        assert process.returncode == code, output
        return output

    def python(self, program: str, code: int = 0, given: str = "") -> str:
        """Run a program in the project, which is set up before."""
        done = subprocess.run(
            [sys.executable, "-c", f"import django\ndjango.setup()\n{program}"],
            cwd=PROJECT,
            env={**self.env, "DJANGO_SETTINGS_MODULE": "settings"},
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    def migrate(self) -> None:
        """Make the tables that jobs write to."""
        with sqlite3.connect(self.database) as connection:
            connection.execute("CREATE TABLE shop_note (id INTEGER PRIMARY KEY, text TEXT)")
            connection.execute("PRAGMA journal_mode=WAL")
        connection.close()

    def notes(self, order: str = "text") -> list[str]:
        """Return what jobs have written, sorted."""
        with sqlite3.connect(self.database) as connection:
            rows = connection.execute(f"SELECT text FROM shop_note ORDER BY {order}").fetchall()
        connection.close()
        return [text for (text,) in rows]


def jobs_in(info: Mapping[str, Any]) -> dict[str, int]:
    """Return how many jobs wait to be tried again, and how many are dead."""
    tasks = info["faktory"]["tasks"]
    return {name: tasks[name]["size"] for name in ("Retries", "Dead")}
