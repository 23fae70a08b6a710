"""The nursery, in a program without threads."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

HEAD = """
import os, signal, time
from faktory.worker.nursery import Nursery, NurseryGone, ended

def child(ends):
    os.write(ends[0], str(sorted(map(int, os.listdir("/proc/self/fd")))).encode())
    command = os.read(ends[1], 100).decode()
    exec(command)
    os._exit(0)

class Born:
    def __init__(self):
        self.says, says = os.pipe()
        commands, self.commands = os.pipe()
        self.obituary, obituary = os.pipe()
        try:
            self.pid = nursery.fork((says, commands), obituary)
        finally:
            for descriptor in (says, commands, obituary):
                os.close(descriptor)
        self.open = eval(os.read(self.says, 1000))

    def does(self, command):
        os.write(self.commands, command.encode())

nursery = Nursery(child)
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
        nursery.signal(borns[2].pid, signal.SIGKILL)
        borns[3].does("pass")
        print([ended(born.obituary) for born in borns])
        nursery.close()
        """
    )
    assert said == "[7, -11, -9, 0]\n"


def test_a_child_has_no_descriptors_of_its_siblings() -> None:
    said = run(
        """
        borns = [Born() for _ in range(4)]
        print([len(born.open) for born in borns])
        nursery.close()
        """
    )
    assert len(set(said.strip("[]\n").split(", "))) == 1


def test_nothing_is_left_when_it_is_closed() -> None:
    said = run(
        """
        borns = [Born() for _ in range(3)]
        nursery.close()
        print([os.path.exists(f"/proc/{pid}") for pid in (nursery.pid, *(b.pid for b in borns))])
        """
    )
    # Children were reaped by the nursery, the nursery by its parent.
    assert said == f"{[False] * 4}\n"


def test_a_child_whose_end_nobody_waits_for_does_no_harm() -> None:
    said = run(
        """
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        nursery.close()
        nursery = Nursery(child)
        born = Born()
        os.close(born.obituary)
        born.does("pass")
        while os.path.exists(f"/proc/{born.pid}"):
            time.sleep(0.001)
        other = Born()
        other.does("os._exit(5)")
        print(ended(other.obituary))
        nursery.close()
        """
    )
    assert said == "5\n"


def test_one_that_was_killed_says_so() -> None:
    said = run(
        """
        born = Born()
        os.kill(nursery.pid, signal.SIGKILL)
        os.waitpid(nursery.pid, 0)
        try:
            Born()
        except NurseryGone as error:
            print(error)
        nursery.signal(born.pid, signal.SIGKILL)
        print(ended(born.obituary))
        nursery.close()
        """
    )
    assert "Start the worker again" in said
    assert said.endswith("None\n")


def test_a_system_without_more_processes_is_an_os_error_and_it_goes_on() -> None:
    said = run(
        """
        nursery.close()
        fork, home = os.fork, os.getpid()
        failures = [OSError(11, "no more")]
        def once():
            if os.getpid() != home and failures:
                raise failures.pop()
            return fork()
        os.fork = once
        nursery = Nursery(child)
        try:
            Born()
        except OSError as error:
            print(error.errno)
        born = Born()
        born.does("pass")
        print(ended(born.obituary))
        nursery.close()
        """
    )
    assert said == "11\n0\n"
