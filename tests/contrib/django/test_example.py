"""examples/django: the site of its README, from `migrate` to a task that is enqueued again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, build_opener

import pytest

from .support import require_django

EXAMPLE = Path(__file__).parents[3] / "examples/django"

ENVIRONMENT = {name: value for name, value in os.environ.items() if "FAKTORY_URL" not in name}


def commands() -> list[str]:
    """Return the three commands of the README, without the paths of the clone."""
    block = (EXAMPLE / "README.md").read_text("utf-8").split("```sh\n")[1].split("```")[0]
    return [
        line.replace(".venv/bin/", "").replace("examples/django/", "")
        for line in block.splitlines()
    ]


class Browser:
    """Reads pages and sends forms, with cookies."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._opener = build_opener(HTTPCookieProcessor(CookieJar()))

    def get(self, path: str) -> str:
        with self._opener.open(self._base + path, timeout=30) as answer:
            return answer.read().decode()

    def post(self, path: str, **fields: str) -> str:
        token = re.search(r'csrfmiddlewaretoken" value="([^"]+)', self.get(path))
        assert token is not None
        data = urlencode({"csrfmiddlewaretoken": token[1], **fields}).encode()
        with self._opener.open(self._base + path, data, timeout=30) as answer:
            return answer.read().decode()

    def reports(self) -> list[dict[str, object]]:
        return json.loads(self.get("/reports.json"))["reports"]  # type: ignore[no-any-return]


@pytest.fixture
def browser(tmp_path: Path, wait_until: Callable[..., object]) -> Iterator[Browser]:
    require_django()
    if not hasattr(os, "killpg"):
        pytest.skip("ends a group of processes")
    _, migrate, demo = commands()
    assert (migrate, demo) == ("python manage.py migrate", "python manage.py demo")
    site = tmp_path / "site"
    shutil.copytree(EXAMPLE, site, ignore=shutil.ignore_patterns("db.sqlite3*", "__pycache__"))
    subprocess.run(
        [sys.executable, *migrate.split()[1:]],
        cwd=site,
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    log = site / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *demo.split()[1:], "--port", str(port)],
            cwd=site,
            env=ENVIRONMENT,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    browser = Browser(f"http://127.0.0.1:{port}")

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return "Reports" in browser.get("/")
        except URLError:
            return False

    try:
        wait_until(answers, timeout=60)
        yield browser
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
        assert "stopped, every job answered" in log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_the_site_enqueues_shows_progress_and_builds_again(
    browser: Browser, wait_until: Callable[..., object]
) -> None:
    def done() -> bool:
        (report,) = browser.reports()
        assert report["percent"] != 100 or report["state"] in ("running", "done")
        return report["state"] == "done"

    assert "less than or equal to 100000000" in browser.post("/", limit="100000001")
    assert browser.reports() == []
    browser.post("/", limit="1000000")
    wait_until(done)
    (report,) = browser.reports()
    assert (report["name"], report["result"]) == ("Primes below 1,000,000", "78,498")
    first = report["task"]
    assert len(str(first)) == 24

    browser.post("/admin/login/?next=/admin/", username="admin", password="admin")
    page = browser.post(
        "/admin/reports/report/", action="build_again", _selected_action=str(report["id"])
    )
    assert "1 tasks are enqueued" in page
    wait_until(lambda: browser.reports()[0]["task"] != first and done())
    assert browser.reports()[0]["result"] == "78,498"
