"""Signal handlers within a block, and what signals do to a worker and to what its jobs fork."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from pathlib import Path
from threading import Thread, Timer

import pytest

from faktory.worker.signals import handled, noticed

from .conftest import Push, Reported, RunProgram, WaitUntil

NAMES = ("SIGTERM", "SIGINT", "SIGTSTP", "SIGTTIN")


def test_each_signal_calls_its_function_within_the_block_and_its_old_handler_after_it() -> None:
    before = [signal.getsignal(getattr(signal, name)) for name in NAMES]
    calls: list[str] = []
    with handled({name: lambda name=name: calls.append(name) for name in NAMES}):  # type: ignore[misc]
        for name in NAMES:
            os.kill(os.getpid(), getattr(signal, name))
        assert calls == list(NAMES)
    assert [signal.getsignal(getattr(signal, name)) for name in NAMES] == before


def test_a_signal_that_the_platform_does_not_have_is_ignored() -> None:
    calls: list[int] = []
    with handled({"SIGNEVER": lambda: None, "SIGTERM": lambda: calls.append(1)}):
        os.kill(os.getpid(), signal.SIGTERM)
    assert calls == [1]


def test_another_thread_leaves_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def handle() -> None:
        with handled({"SIGTERM": lambda: None}):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = Thread(target=handle)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_signal_that_the_program_uses_is_left_alone_where_that_is_asked_for() -> None:
    calls: list[str] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: calls.append("program"))
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    names = ("SIGUSR1", "SIGHUP", "SIGUSR2")
    unless_used = {name: lambda name=name: calls.append(name) for name in names}  # type: ignore[misc]
    try:
        with handled({}, unless_used):
            for name in names:
                os.kill(os.getpid(), getattr(signal, name))
            assert calls == ["program", "SIGUSR2"]
        assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGUSR1, before)
        signal.signal(signal.SIGHUP, ignored)


@pytest.mark.skipif(sys.platform != "linux", reason="what is caught is read from /proc")
def test_a_signal_that_faulthandler_uses_is_left_alone(tmp_path: Path) -> None:
    calls: list[int] = []
    with (tmp_path / "stacks").open("w") as stacks:
        faulthandler.register(signal.SIGUSR1, stacks)
        try:
            with handled({}, {"SIGUSR1": lambda: calls.append(1)}):
                os.kill(os.getpid(), signal.SIGUSR1)
        finally:
            faulthandler.unregister(signal.SIGUSR1)
    assert "most recent call first" in (tmp_path / "stacks").read_text()
    assert calls == []


def test_blocks_may_be_nested_and_a_handler_that_the_program_sets_within_stays() -> None:
    calls: list[str] = []
    before = signal.getsignal(signal.SIGUSR2)
    own = calls.append
    with handled({"SIGUSR2": lambda: calls.append("outer")}):
        with handled({"SIGUSR2": lambda: calls.append("inner")}):
            os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGUSR2)
    assert calls == ["inner", "outer"]
    assert signal.getsignal(signal.SIGUSR2) == before
    try:
        with handled({"SIGUSR2": lambda: None}):
            signal.signal(signal.SIGUSR2, lambda *_: own("program"))
        os.kill(os.getpid(), signal.SIGUSR2)
        assert calls[-1] == "program"
    finally:
        signal.signal(signal.SIGUSR2, before)


class Seen(Exception):
    pass


def see() -> None:
    raise Seen


def test_a_signal_is_noticed_that_does_not_interrupt_what_the_main_thread_waits_for() -> None:
    # To a thread that has not blocked it: the same as one that comes just before the wait.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    other = Thread(target=time.sleep, args=(0.5,))
    other.start()
    sender = Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
    sender.start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    began = time.monotonic()
    try:
        with handled({"SIGTERM": see, "SIGTTIN": lambda: None}), noticed(), pytest.raises(Seen):
            time.sleep(30)
        assert time.monotonic() - began < 25
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        other.join()
        sender.join()


# What a job forks

FORKS = """
import multiprocessing, signal

signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # ignored in what a shell runs in the background

NAMES = ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGTSTP", "SIGTTIN", "SIGUSR1", "SIGXCPU"]

@faktory.job
def signals_of_a_child():
    reader, writer = os.pipe()
    if os.fork() == 0:
        found = [signal.getsignal(getattr(signal, name)) for name in NAMES]
        found.append(signal.set_wakeup_fd(-1))
        os.write(writer, repr(found).encode())
        os._exit(0)
    os.wait()
    note("child", os.read(reader, 4096).decode())

@faktory.job
def leaves_a_pool():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.apply_async(time.sleep, (60,))
        time.sleep(0.2)
    note("left")

@faktory.job
def terminates_a_child(name):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(reader, 1)
    os.kill(pid, getattr(signal, name))
    note(name, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""

PLAIN = [signal.SIG_DFL, signal.default_int_handler, *[signal.SIG_DFL] * 6, -1]


@pytest.mark.parametrize("options", ["concurrency=1", "use_threads=False"])
def test_what_a_job_forks_has_the_signals_of_a_plain_program(
    run_program: RunProgram, push: Push, wait_until: WaitUntil, options: str
) -> None:
    program = run_program(FORKS + f"Worker(URL, {options}).run()", warnings="ignore")
    push("signals_of_a_child")
    push("leaves_a_pool")
    push("terminates_a_child", "SIGTERM")
    push("terminates_a_child", "SIGHUP")
    wait_until(lambda: "SIGHUP -1" in program.notes)
    assert program.notes[:3] == [f"child {PLAIN}", "left", "SIGTERM -15"]


def test_what_a_job_forks_has_the_handlers_that_the_program_had_before_run(
    run_program: RunProgram, push: Push, wait_until: WaitUntil
) -> None:
    program = run_program(
        FORKS
        + "signal.signal(signal.SIGTERM, lambda *_: os._exit(7))\n"
        + "signal.signal(signal.SIGHUP, lambda *_: os._exit(8))\n"
        + "Worker(URL).run()",
        warnings="ignore",
    )
    push("terminates_a_child", "SIGTERM")
    push("terminates_a_child", "SIGHUP")
    wait_until(lambda: program.notes == ["SIGTERM 7", "SIGHUP 8"])


# Signals to a worker in a program

HELD = """
@faktory.job
def held():
    note("held")
    hold()

Worker(URL, concurrency=2, {options}).run()
note("returned")
"""


@pytest.mark.parametrize("options", ["", "use_threads=False"])
@pytest.mark.parametrize("name", ["SIGHUP", "SIGQUIT", "SIGXCPU"])
def test_signals_that_would_kill_a_worker_stop_it(
    run_program: RunProgram,
    push: Push,
    wait_until: WaitUntil,
    reported: Reported,
    name: str,
    options: str,
) -> None:
    program = run_program(HELD.format(options=options), warnings="ignore")
    jid = push("held")
    wait_until(lambda: program.notes == ["held"])
    if name == "SIGHUP":  # as a terminal does that is closed
        os.killpg(program.process.pid, signal.SIGHUP)
    else:
        program.process.send_signal(getattr(signal, name))
    wait_until(lambda: "Shutdown: waiting up to 15 seconds for 1 job" in program.log)
    assert (", running held" in program.log) is (name == "SIGQUIT")
    program.release()
    assert program.process.wait(15) == 0
    reported(jid, "ACK")
    assert program.notes[-1] == "returned"


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2"])
def test_a_signal_without_a_meaning_is_ignored_with_a_line(
    run_program: RunProgram, push: Push, wait_until: WaitUntil, reported: Reported, name: str
) -> None:
    program = run_program(HELD.format(options=""))
    jid = push("held")
    wait_until(lambda: program.notes == ["held"])
    program.process.send_signal(getattr(signal, name))
    wait_until(lambda: f"{name} is ignored" in program.log)
    program.release()
    reported(jid, "ACK")


def test_a_hup_that_is_ignored_at_the_start_stays_ignored(
    run_program: RunProgram, push: Push, wait_until: WaitUntil, reported: Reported
) -> None:
    program = run_program(
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + HELD.format(options="")
    )
    jid = push("held")
    wait_until(lambda: program.notes == ["held"])
    program.process.send_signal(signal.SIGHUP)
    program.process.send_signal(signal.SIGTSTP)
    wait_until(lambda: "does not suspend it" in program.log)
    assert "Shutdown" not in program.log
    program.release()
    reported(jid, "ACK")
