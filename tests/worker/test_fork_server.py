"""The fork server, in a program without threads."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

HEAD = """
import os, signal, time
from faktory.worker.backends import children
from faktory.worker.backends.children import ForkServerClient, ForkServerDied

def child(jobs, interrupts):
    jobs.send_bytes(str(sorted(map(int, os.listdir("/proc/self/fd")))).encode())
    exec(jobs.recv_bytes().decode())
    os._exit(0)

class Born:
    def __init__(self):
        self.pid, self.channel = server.fork()
        self.open = eval(self.channel.recv_bytes())

    def does(self, command):
        self.channel.send_bytes(command.encode())

    @property
    def ended(self):
        try:
            message = self.channel.recv_bytes()
        except EOFError:
            return None
        return children._NUMBER.unpack(message[1:])[0]

server = ForkServerClient(child)
"""


def run(code: str) -> str:
    """Run a program; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HEAD + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_it_tells_how_each_child_ended() -> None:
    said = run(
        """
        borns = [Born() for _ in range(4)]
        borns[0].does("os._exit(7)")
        borns[1].does("os.kill(os.getpid(), signal.SIGSEGV)")
        server.order(children._KILL, borns[2].pid, 0)
        borns[3].does("pass")
        print([born.ended for born in borns])
        server.close()
        """
    )
    assert said == "[7, -11, -9, 0]\n"


def test_a_child_has_no_descriptors_of_its_siblings() -> None:
    said = run(
        """
        borns = [Born() for _ in range(4)]
        print([len(born.open) for born in borns])
        server.close()
        """
    )
    assert len(set(said.strip("[]\n").split(", "))) == 1


def test_nothing_is_left_when_it_is_closed() -> None:
    said = run(
        """
        borns = [Born() for _ in range(3)]
        server.close()
        print([os.path.exists(f"/proc/{pid}") for pid in (server.pid, *(b.pid for b in borns))])
        """
    )
    # Children were reaped by the server, the server by its parent.
    assert said == f"{[False] * 4}\n"


def test_a_child_whose_end_nobody_waits_for_does_no_harm() -> None:
    said = run(
        """
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        server.close()
        server = ForkServerClient(child)
        born = Born()
        born.does("time.sleep(0.05)")
        born.channel.close()
        while os.path.exists(f"/proc/{born.pid}"):
            time.sleep(0.001)
        other = Born()
        other.does("os._exit(5)")
        print(other.ended)
        server.close()
        """
    )
    assert said == "5\n"


def test_one_that_was_killed_says_so() -> None:
    said = run(
        """
        born = Born()
        os.kill(server.pid, signal.SIGKILL)
        os.waitpid(server.pid, 0)
        try:
            Born()
        except ForkServerDied as error:
            print(error)
        server.order(children._KILL, born.pid, 0)
        print(born.ended)
        server.close()
        """
    )
    assert "Start the worker again" in said
    assert said.endswith("None\n")


def test_a_system_without_more_processes_is_an_os_error_and_it_goes_on() -> None:
    said = run(
        """
        server.close()
        fork, home = os.fork, os.getpid()
        failures = [OSError(11, "no more")]
        def once():
            if os.getpid() != home and failures:
                raise failures.pop()
            return fork()
        os.fork = once
        server = ForkServerClient(child)
        try:
            Born()
        except OSError as error:
            print(error.errno)
        born = Born()
        born.does("pass")
        print(born.ended)
        server.close()
        """
    )
    assert said == "11\n0\n"
