"""The fork server, in a program without threads."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import textwrap

import pytest

from faktory.worker.backends import fork_server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

HEAD = """
import os, signal, time
from faktory.worker.backends import fork_server
from faktory.worker.backends.fork_server import ForkServerClient, ForkServerDied

def child(jobs, interrupts):
    jobs.send_bytes(str(sorted(map(int, os.listdir("/proc/self/fd")))).encode())
    exec(jobs.recv_bytes().decode())
    os._exit(0)

class Forked:
    def __init__(self):
        self.pid, self.channel, self.end = server.fork()
        self.open = eval(self.channel.recv_bytes())

    def does(self, command):
        self.channel.send_bytes(command.encode())

    @property
    def ended(self):
        try:
            return fork_server.NUMBER.unpack(self.end.recv_bytes())[0]
        except EOFError:
            return None

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


def test_the_fork_server_reports_how_each_child_ended() -> None:
    output = run(
        """
        forked = [Forked() for _ in range(4)]
        forked[0].does("os._exit(7)")
        forked[1].does("os.kill(os.getpid(), signal.SIGSEGV)")
        server.order(fork_server.KILL, forked[2].pid, 0)
        forked[3].does("pass")
        print([one.ended for one in forked])
        server.close()
        """
    )
    assert output == "[7, -11, -9, 0]\n"


def test_a_child_has_no_descriptors_of_other_children() -> None:
    output = run(
        """
        forked = [Forked() for _ in range(4)]
        print([len(one.open) for one in forked])
        server.close()
        """
    )
    assert len(set(output.strip("[]\n").split(", "))) == 1


def test_no_process_is_left_when_the_fork_server_is_closed() -> None:
    output = run(
        """
        forked = [Forked() for _ in range(3)]
        server.close()
        print([os.path.exists(f"/proc/{pid}") for pid in (server.pid, *(b.pid for b in forked))])
        """
    )
    # The fork server has reaped the children, and this program the fork server.
    assert output == f"{[False] * 4}\n"


def test_the_end_of_a_child_that_nobody_waits_for_does_no_harm() -> None:
    output = run(
        """
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        server.close()
        server = ForkServerClient(child)
        one = Forked()
        one.does("time.sleep(0.05)")
        one.channel.close()
        one.end.close()
        while os.path.exists(f"/proc/{one.pid}"):
            time.sleep(0.001)
        other = Forked()
        other.does("os._exit(5)")
        print(other.ended)
        server.close()
        """
    )
    assert output == "5\n"


def test_a_fork_server_that_was_killed_is_an_error_with_a_remedy() -> None:
    output = run(
        """
        one = Forked()
        os.kill(server.pid, signal.SIGKILL)
        os.waitpid(server.pid, 0)
        try:
            Forked()
        except ForkServerDied as error:
            print(error)
        server.order(fork_server.KILL, one.pid, 0)
        print(one.ended)
        server.close()
        """
    )
    assert "Start the worker again" in output
    assert output.endswith("None\n")


def test_a_fork_that_fails_is_an_os_error_and_the_fork_server_goes_on() -> None:
    output = run(
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
            Forked()
        except OSError as error:
            print(error.errno)
        one = Forked()
        one.does("pass")
        print(one.ended)
        server.close()
        """
    )
    assert output == "11\n0\n"


@pytest.mark.parametrize("used", [False, True])
def test_signals_for_users_are_ignored_unless_the_program_has_a_handler(used: bool) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    if used:
        signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            assert (signal.SIGUSR1 in fork_server.ForkServer(ours).signals) is not used
    finally:
        signal.signal(signal.SIGUSR1, before)
