from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import pytest
import setproctitle

import faktory
from faktory import Worker
from faktory.cli.worker import title
from faktory.server import EmbeddedServer
from faktory.server.state import Timing

WaitUntil = Callable[..., object]
NAME = f"faktory-worker {faktory.__version__}"


@pytest.fixture(autouse=True)
def titles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All titles that were set, instead of the title of this process."""
    titles = ["python"]
    monkeypatch.setattr(setproctitle, "getproctitle", lambda: titles[-1])
    monkeypatch.setattr(setproctitle, "setproctitle", titles.append)
    return titles


@pytest.mark.parametrize(
    ("tag", "between"), [("", ""), ("shop", "shop "), ("caf\udce9\n\0", "caf??? ")]
)
def test_a_title_has_the_version_the_tag_and_how_busy_it_is(tag: str, between: str) -> None:
    worker = Worker("tcp://localhost", concurrency=7)
    assert title.title(worker, tag) == f"{NAME} {between}[0 of 7 busy]"


def test_the_title_follows_the_worker_and_is_restored_after_it(
    titles: list[str], wait_until: WaitUntil
) -> None:
    go_on = threading.Event()
    with EmbeddedServer(timing=Timing(fetch_wait=0.1)) as server:
        worker = Worker(server.url, concurrency=2)
        worker.register("work", lambda: go_on.wait(10))
        with faktory.Client(server.url) as client:
            client.push({"jobtype": "work", "args": []})
        running = threading.Thread(target=worker.run)
        running.start()
        with title.shown(worker, "shop", update_interval=0.001):
            wait_until(lambda: titles[-1] == f"{NAME} shop [1 of 2 busy]")
            worker.quiet()
            wait_until(lambda: titles[-1] == f"{NAME} shop [1 of 2 busy] quiet")
            worker.stop()
            wait_until(lambda: titles[-1] == f"{NAME} shop [1 of 2 busy] stopping")
            go_on.set()
            running.join()
            wait_until(lambda: titles[-1] == f"{NAME} shop [0 of 2 busy] stopping")
    assert titles[-1] == "python"
    assert not [each for each in threading.enumerate() if each.name == "faktory-title"]


def test_the_title_is_restored_when_the_worker_raises(titles: list[str]) -> None:
    with pytest.raises(KeyError), title.shown(Worker("tcp://localhost"), ""):
        raise KeyError
    assert titles[-1] == "python"


@pytest.mark.parametrize(("tag", "between"), [("", ""), ("shop", "shop ")])
def test_the_title_of_a_supervisor_has_the_number_of_its_workers(
    titles: list[str], monkeypatch: pytest.MonkeyPatch, tag: str, between: str
) -> None:
    title.show_supervisor(tag, 4)
    assert titles[-1] == f"{NAME} {between}parent of 4"
    monkeypatch.setitem(sys.modules, "setproctitle", None)
    title.show_supervisor(tag, 5)
    assert titles[-1].endswith("parent of 4")


def test_without_setproctitle_or_a_thread_there_is_no_title(
    titles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with title.shown(Worker("tcp://localhost"), ""):
            pass
    monkeypatch.setitem(sys.modules, "setproctitle", None)
    with title.shown(Worker("tcp://localhost"), ""):
        pass
    assert titles == ["python"]
