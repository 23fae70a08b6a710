from __future__ import annotations

import gc
import inspect
import os
import subprocess
import sys
import weakref
from unittest.mock import create_autospec

import pytest

from faktory import Pool, Producer
from faktory.client import fork
from faktory.server import EmbeddedServer


class Known:
    def __init__(self) -> None:
        self.started = 0

    def reset_after_fork(self) -> None:
        self.started += 1


def test_registered_objects_are_reset_once_in_each_child_and_not_in_the_parent(in_child):
    known = [Known(), Known()]
    for one in known:
        fork.register(one)

    def look():
        return [one.started for one in known]

    assert in_child(look) == [1, 1]
    assert in_child(lambda: [look(), in_child(look)]) == [[1, 1], [2, 2]]
    assert look() == [0, 0]


def test_registering_does_not_keep_an_object_alive():
    known = Known()
    fork.register(known)
    gone = weakref.ref(known)
    del known
    gc.collect()
    assert gone() is None


# Imports

IMPORTS = """
import sys, threading
import faktory
client = faktory.Client(sys.argv[1])
class Finder:
    def find_spec(self, name, path=None, target=None):
        print(name)
sys.meta_path.insert(0, Finder())
client.push({"jobtype": "x", "args": [1]})
client.push_bulk([{"jobtype": "x", "args": [1]}])
client.info()
client.close()
"""


@pytest.mark.parametrize("password", [None, "secret"])
def test_a_client_that_was_made_imports_nothing_to_connect_and_push(password):
    with EmbeddedServer(password=password) as server:
        assert run(IMPORTS, server.url) == ""
        assert len(server.queues["default"]) == 2


FORKS = """
import os, signal, sys, threading, time, warnings
from importlib.machinery import PathFinder
import faktory
warnings.simplefilter("ignore")
faktory.Client
began = threading.Event()
class Finder:  # of a module that encodings.idna imports; a fork waits for finders
    def find_spec(self, name, path=None, target=None):
        if name == "stringprep":
            spec = PathFinder.find_spec(name)
            execute = spec.loader.exec_module
            def slowly(module):
                began.set()
                time.sleep(0.2)
                execute(module)
            spec.loader.exec_module = slowly
            return spec
sys.meta_path.insert(0, Finder())
def by_faktory():
    faktory.Client(sys.argv[1]).connect()
def by_others():
    import encodings.idna
thread = threading.Thread(target=globals()[sys.argv[2]], daemon=True)
thread.start()
began.wait()
if (pid := os.fork()) == 0:
    signal.alarm(10)
    with faktory.Client(sys.argv[1]) as client:
        client.push({"jobtype": "x", "args": []})
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
thread.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("how", ["by_faktory", "by_others"])
def test_a_child_connects_though_it_was_forked_while_another_thread_did_so_first(how):
    with EmbeddedServer() as server:
        assert run(FORKS, server.url, how) == "0\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_imports_tls_though_it_was_forked_while_another_thread_did_so_first():
    code = FORKS.replace("stringprep", "faktory.client.tls").replace(
        "PathFinder.find_spec(name)", "PathFinder.find_spec(name, faktory.client.__path__)"
    )
    child = """
    import faktory.client.tls
    os._exit(0)
"""
    start = code.index("    with faktory.Client")
    code = code[:start] + child.lstrip("\n") + code[code.index("    os._exit(0)") + 16 :]
    with EmbeddedServer() as server:
        url = server.url.replace("tcp://", "tcp+tls://")
        code = code.replace(
            "    faktory.Client(sys.argv[1]).connect()",
            """
    try: faktory.Client(sys.argv[1]).connect()
    except faktory.FaktoryError: pass
""",
        )
        assert run(code, url, "by_faktory") == "0\n"


def run(code: str, *arguments: str) -> str:
    """Run a program of its own; return what it printed."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_lock_that_is_made_at_first_use_does_not_hinder_a_look_at_the_class() -> None:
    assert dict(inspect.getmembers(Pool))["_lock"] is Pool.__dict__["_lock"]
    create_autospec(Producer)
