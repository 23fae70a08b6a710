"""What supervisors share: the table of running jobs, and how the end of a process is described."""

from __future__ import annotations

import os
import signal
import sys

import pytest

if not hasattr(os, "fork"):
    pytest.skip("needs a system that can fork", allow_module_level=True)

from faktory.worker.backends.supervisor import RunningJobs, describe_death, describe_exit


def test_the_jobs_of_a_child_can_be_read_after_its_death() -> None:
    jobs = RunningJobs(3)
    pid = os.fork()
    if not pid:
        try:
            jobs.write("one", "12345678", 5.0)
            jobs.write("two", "é" * 20, 6.5, ack=True)
            jobs.write("one", "87654321", 7.0)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert jobs.take() == {"87654321": (7.0, False), "é" * 20: (6.5, True)}
    assert jobs.take() == {}


def test_a_reported_job_is_removed() -> None:
    jobs = RunningJobs(2)
    for number in range(10):
        jobs.write("one", f"jid-{number:04}", 5.0)
        jobs.write("one", None)
    jobs.write("two", None)
    assert jobs.take() == {}


def test_an_entry_is_free_for_another_thread_when_its_job_was_reported() -> None:
    jobs = RunningJobs(1)
    jobs.write("one", "12345678", 5.0)
    jobs.write("one", None)
    jobs.write("two", "87654321", 5.0)
    assert jobs.take() == {"87654321": (5.0, False)}


@pytest.mark.parametrize("length", [1000, 1013, 1014, 5_000_000])
def test_an_id_that_is_too_long_for_its_entry_is_left_out(length: int) -> None:
    jobs = RunningJobs(2)
    jobs.write("one", "x" * length, 5.0)
    jobs.write("two", "12345678", 5.0)
    assert sorted(jobs.take()) == ["12345678", *["x" * length] * (length <= 1013)]


def test_an_id_with_a_lone_surrogate_is_written_without_an_error() -> None:
    jobs = RunningJobs(1)
    jobs.write("one", "\ud800-12345678", 5.0)
    assert len(jobs.take()) == 1


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (3, "ended with exit code 3"),
        (-signal.SIGSEGV, "was killed by SIGSEGV"),
        (-1000, "was killed by signal 1000"),
    ],
)
def test_an_exit_is_described_by_its_code_or_its_signal(status: int, text: str) -> None:
    assert describe_exit(status) == text
    assert text in describe_death("it", status)


@pytest.mark.skipif(sys.platform != "linux", reason="real-time signals of Linux")
def test_a_signal_without_a_name_is_described_by_its_number() -> None:
    number = signal.SIGRTMIN + 7
    assert describe_exit(-number) == f"was killed by signal {number}"
