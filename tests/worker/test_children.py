"""`Worker(use_threads=False)`: jobs run in a process of their processor, which may die."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import time
from typing import Any

import pytest

from faktory import Client
from faktory.server import EmbeddedServer

from .conftest import Push, Reported, RunProgram, WaitUntil, failure, reports

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# Jobs that are done


def test_decorated_functions_closures_and_bound_tasks_run_in_a_process_that_stays(
    run_children: RunProgram, push: Push, reported: Reported
) -> None:
    jids = [push("decorated", 1), push("decorated", 2), push("bound", "a"), push("bound", "b")]
    program = run_children()
    reported(jids, *["ACK"] * 4)
    first, second = [note.split() for note in program.notes if note.startswith("decorated")]
    assert [first[1:3], second[1:3]] == [["1", jids[0]], ["2", jids[1]]]
    assert first[3] == second[3] != str(program.process.pid)
    assert program.notes.count("around") == 2
    assert [note for note in program.notes if "bound" in note] == [
        f"bound {jids[2]} a 1",
        f"bound {jids[3]} b 2",
    ]


def test_each_processor_has_a_process_of_its_own(
    run_children: RunProgram, push: Push, wait_until: WaitUntil
) -> None:
    push("held")
    push("held")
    program = run_children("work(concurrency=2).run()")
    wait_until(lambda: len(set(program.notes)) == 2)  # with the pids of two processes
    program.release()
    wait_until(lambda: program.notes[2:] == ["ended", "ended"])


def test_the_middleware_runs_around_the_job_in_its_process(
    run_children: RunProgram, push: Push, wait_until: WaitUntil
) -> None:
    push("decorated", 1)
    program = run_children(
        """
@faktory.worker_middleware.add
def around_it(job, payload, call_next):
    note("before", os.getpid())
    return call_next()
work().run()
"""
    )
    wait_until(lambda: len(program.notes) == 3)
    assert program.notes[0].split()[1] == program.notes[2].split()[-1]


def test_a_function_registered_after_run_began_is_pickled_or_its_job_fails(
    server: EmbeddedServer, run_children: RunProgram, push: Push, reported: Reported
) -> None:
    jids = [push("top"), push("inner")]
    run_children(
        """
def top():
    note("top")
worker = work()
@functools.partial(worker.on, "startup")
def later():
    worker.register("top", top)
    worker.register("inner", lambda: None)
worker.run()
"""
    )
    reported(jids, "ACK", "FAIL")
    assert "register it before" in failure(server, jids[1])["message"]


def test_a_job_pushes_and_tracks_itself(
    run_children: RunProgram, push: Push, wait_until: WaitUntil, reported: Reported
) -> None:
    jid = push("tracked", custom={"track": 1})
    program = run_children(
        """
faktory.configure(url=URL)
@faktory.job
def tracked():
    try:
        current_job().track_progress(50, "half")
    except faktory.FaktoryEnterpriseRequired:
        note("enterprise")
    note(fails.perform_async("well"))
work().run()
"""
    )
    wait_until(lambda: len(program.notes) == 2)
    reported([jid, program.notes[1]], "ACK", "ACK")
    assert program.notes[0] == "enterprise"


# Jobs that fail, and children that die


@pytest.mark.parametrize(
    ("how", "errtype", "message"),
    [
        ("mine", "OwnError", "this and that"),
        ("exit", "SystemExit", "3"),
        ("os._exit", "ProcessDied", "ended with exit code 3"),
        ("kill", "ProcessDied", "killed by SIGKILL"),
        ("segfault", "ProcessDied", "killed by SIGSEGV"),
    ],
)
def test_a_job_that_raises_or_dies_fails_with_the_reason_and_the_next_one_runs(
    server: EmbeddedServer,
    run_children: RunProgram,
    push: Push,
    reported: Reported,
    how: str,
    errtype: str,
    message: str,
) -> None:
    jids = [push("fails", how, backtrace=20, retry=1), push("decorated", 1)]
    program = run_children()
    reported(jids, "FAIL", "ACK")
    failed = failure(server, jids[0])
    assert failed["errtype"] == errtype
    assert message in failed["message"]
    handled = next(note for note in program.notes if note.startswith("error"))
    assert handled.startswith(f"error {errtype} ")
    assert handled.endswith("True True")
    if how == "mine":
        assert failed["backtrace"][-1].endswith("OwnError: this and that")
        assert any("program.py" in line for line in failed["backtrace"])
        assert "in fails" in program.log


@pytest.mark.parametrize("how", ["nameless", "nul", "classless"])
def test_an_error_whose_own_methods_raise_does_not_end_its_process(
    server: EmbeddedServer, run_children: RunProgram, push: Push, reported: Reported, how: str
) -> None:
    jids = [push("hostile", how), push("decorated", 1)]
    run_children(
        """
class Raises(BaseException): pass
class Nameless(type):
    @property
    def __name__(cls): raise Raises
class Nul(type):
    __name__ = "a" + chr(0)
class NamelessError(Exception, metaclass=Nameless): pass
class NulError(Exception, metaclass=Nul): pass
class ClasslessError(Exception):
    @property
    def __class__(self): raise Raises
@faktory.job
def hostile(how):
    raise {"nameless": NamelessError, "nul": NulError, "classless": ClasslessError}[how]("own")
work().run()
"""
    )
    reported(jids, "FAIL", "ACK")
    assert failure(server, jids[0])["message"] == "own"


def test_what_follows_from_an_error_is_decided_in_the_child(
    server: EmbeddedServer,
    run_children: RunProgram,
    push: Push,
    wait_until: WaitUntil,
    reported: Reported,
) -> None:
    hows = ("again", "wanted", "bury", "discard", "limit", "kill", "last")
    jids = {how: push("policy", how, retry=-1 if how == "last" else 3) for how in hows}
    program = run_children(
        """
class Away(Exception):
    def __init__(self, one, two):  # cannot be pickled
        super().__init__("away")
def waits(attempt):
    note("backoff", attempt, os.getpid() != MAIN)
    return 100
@faktory.job(retry_on=Away, discard_on=LookupError, backoff=waits, time_limit=5)
def policy(how):
    if how in ("again", "last"): raise Away(1, 2)
    if how == "wanted": raise faktory.Retry("rate limited", after=60)
    if how == "bury": raise ValueError("wrong")
    if how == "discard": raise KeyError("gone")
    if how == "limit": raise faktory.TimeLimitExceeded
    if how == "kill": os.kill(os.getpid(), signal.SIGKILL)
@policy.on_exhausted
def gave_up(job, error):
    note("gave up", job.args[0], os.getpid() == MAIN)
work().run()
"""
    )
    reported([*jids.values()], "ACK", "ACK", "FAIL", "ACK", "FAIL", "FAIL", "FAIL")
    scheduled = {job["jid"]: job["failure"]["message"] for job in server.scheduled}
    assert scheduled == {jids["again"]: "away", jids["wanted"]: "rate limited"}
    assert [job["jid"] for job in server.retries] == [jids["kill"]]
    dead = {job["jid"] for job in server.dead}
    assert dead == {jids["bury"], jids["limit"], jids["last"]}
    wait_until(lambda: "backoff 1 True" in program.notes)
    notes = [note for note in program.notes if note.startswith("gave up")]
    assert sorted(notes) == ["gave up bury True", "gave up last True", "gave up limit True"]
    handled = [note.split()[1] for note in program.notes if note.startswith("error")]
    assert sorted(handled) == ["Away", "Away", "ProcessDied", "TimeLimitExceeded", "ValueError"]


def test_a_job_that_is_interrupted_in_its_child_is_given_back(
    server: EmbeddedServer, run_children: RunProgram, push: Push, wait_until: WaitUntil
) -> None:
    jids = {push("held", retry=0), push("stubborn", retry=0)}
    program = run_children(
        """
@faktory.job
def stubborn():
    note("held")
    while True:
        try: time.sleep(30)
        except faktory.Shutdown: pass
work(concurrency=2, give_back=True, disconnect_wait=0).run()
"""
    )
    wait_until(lambda: len(program.notes) == 2)
    assert program.stop() == 0
    assert {job["jid"] for job in server.scheduled} == jids
    assert (server.working, server.failures) == ([], 0)
    assert len(program.notes) == 2


def test_a_job_that_dies_in_its_last_attempt_is_exhausted(
    run_children: RunProgram, push: Push, wait_until: WaitUntil
) -> None:
    push("fails", "kill", retry=0)
    program = run_children()
    wait_until(lambda: "exhausted fails ProcessDied" in program.notes)


def test_a_discarded_job_is_acknowledged(
    run_children: RunProgram, push: Push, wait_until: WaitUntil, reported: Reported
) -> None:
    jid = push("fails", "discard")
    program = run_children()
    reported(jid, "ACK")
    wait_until(lambda: "discarded" in program.log)
    assert "not needed" in program.log
    assert program.notes == []


@pytest.mark.parametrize("how", ["term", "fork"])
def test_a_stray_term_and_a_fork_do_not_harm_a_job(
    run_children: RunProgram, push: Push, reported: Reported, how: str
) -> None:
    jids = [push("fails", how), push("decorated", 1)]
    run_children()
    reported(jids, "ACK", "ACK")


def test_a_job_that_writes_into_its_channel_fails_and_the_next_ones_are_reported(
    server: EmbeddedServer, run_children: RunProgram, push: Push, reported: Reported
) -> None:
    # The last ones could be the beginning of a longer message.
    texts = ("short", "x" * 100_000, "\0", "\0\0\1\0")
    jids = [push("writes", text) for text in texts]
    jids += [push("decorated", 1), push("fails", "mine")]
    run_children(
        """
import stat
@faktory.job
def writes(text):
    for name in os.listdir("/proc/self/fd"):
        try:
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                os.set_blocking(int(name), False)
                os.write(int(name), text.encode())
        except OSError:
            pass
    time.sleep(0.2)
work(timing=Timing(backoff=lambda *_: 0.01)).run()
"""
    )
    reported(jids, *["FAIL"] * 4, "ACK", "FAIL")
    for jid in jids[:4]:
        assert failure(server, jid)["errtype"] == "ProcessDied"
        assert "by faktory-worker, because the job wrote into" in failure(server, jid)["message"]
    assert failure(server, jids[5])["errtype"] == "OwnError"


def test_the_channel_of_a_child_has_a_high_number_and_is_not_inherited(
    run_children: RunProgram, push: Push, wait_until: WaitUntil
) -> None:
    push("shows")
    program = run_children(
        """
@faktory.job
def shows():
    own = set(map(int, os.listdir("/proc/self/fd")))
    lines = subprocess.check_output(["ls", "/proc/self/fd"], close_fds=False, text=True)
    if (pid := os.fork()) == 0:
        note("forked", *sorted(fd for fd in map(int, os.listdir("/proc/self/fd")) if fd >= 500))
        os._exit(0)
    os.waitpid(pid, 0)
    note("high", *sorted(fd for fd in own if fd >= 500))
    note("inherited", *sorted(fd for fd in map(int, lines.split()) if fd >= 500))
    note("low sockets", sum(os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
                            for fd in own if fd < 500 and os.path.exists(f"/proc/self/fd/{fd}")))
work().run()
"""
    )
    wait_until(lambda: len(program.notes) == 4)
    forked, high, inherited, low = program.notes
    assert len(high.split()) == 3
    assert (forked, inherited, low) == ("forked", "inherited", "low sockets 0")


def test_a_job_that_closes_all_descriptors_is_reported_with_its_own_outcome(
    server: EmbeddedServer, run_children: RunProgram, push: Push, reported: Reported
) -> None:
    jids = [push("closes", how) for how in ("ends", "raises", "stays")] + [push("decorated", 1)]
    program = run_children(
        """
@faktory.job
def closes(how):
    os.closerange(3, 65536)
    if how == "raises": raise OwnError("this", "that")
    if how == "stays": time.sleep(60)
work(timing=Timing(backoff=lambda *_: 0.01)).run()
"""
    )
    reported(jids, "ACK", "FAIL", "FAIL", "ACK")
    assert failure(server, jids[1])["message"] == "this and that"
    message = failure(server, jids[2])["message"]
    assert "by faktory-worker, because the job closed" in message
    assert "lack of memory" not in program.log


def test_a_default_timeout_of_sockets_does_not_end_a_job(
    server: EmbeddedServer, run_children: RunProgram, push: Push, reported: Reported
) -> None:
    jids = [push("slow"), push("limited", "docile"), push("decorated", 1)]
    run_children(
        """
import socket
socket.setdefaulttimeout(0.1)
@faktory.job
def slow():
    time.sleep(0.5)
work().run()
"""
    )
    reported(jids, "ACK", "FAIL", "ACK")
    assert failure(server, jids[1])["errtype"] == "TimeLimitExceeded"


def test_children_that_die_leave_no_descriptor_in_the_worker_and_its_fork_server(
    run_children: RunProgram, push: Push, reported: Reported
) -> None:
    def descriptors(pid: int) -> int:
        return len(os.listdir(f"/proc/{pid}/fd"))

    def settled() -> list[int]:
        reported(push("decorated", 1), "ACK")
        fork_server = min(program.processes)
        return [descriptors(program.process.pid), descriptors(fork_server)]

    program = run_children("work(timing=Timing(backoff=lambda *_: 0.01)).run()")
    before = settled()
    reported([push("fails", "kill") for _ in range(20)], *["FAIL"] * 20)
    assert settled() == before


def test_children_that_finish_no_job_are_started_later_each_time(
    run_children: RunProgram, push: Push, reported: Reported
) -> None:
    def attempts() -> list[str]:
        return [note for note in program.notes if note.startswith("attempt")]

    jids = [push("fails", "kill") for _ in range(4)]
    program = run_children(
        """
def backoff(attempt, random):
    note("attempt", attempt)
    return 0.01
work(timing=Timing(backoff=backoff)).run()
"""
    )
    reported(jids, *["FAIL"] * 4)
    reported(push("decorated", 1), "ACK")
    reported(push("fails", "kill"), "FAIL")  # its child has finished a job
    reported(push("decorated", 2), "ACK")
    assert attempts() == ["attempt 1", "attempt 2", "attempt 3", "attempt 4"]


def test_a_job_waits_while_the_worker_has_no_descriptor_for_its_process(
    server: EmbeddedServer,
    run_children: RunProgram,
    push: Push,
    wait_until: WaitUntil,
    reported: Reported,
) -> None:
    program = run_children(
        """
import resource
held = []
def exhaust(*_):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        while True: held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        logging.warning("exhausted")
signal.signal(signal.SIGUSR1, exhaust)
def backoff(*_):
    while held: os.close(held.pop())
    return 0.05
work(timing=Timing(backoff=backoff)).run()
"""
    )
    wait_until(lambda: {"BEAT", "FETCH"} <= {verb for verb, _ in server.commands})
    program.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: "exhausted" in program.log)
    reported(push("decorated", 1), "ACK")
    assert program.log.count("the system gives no process") == 1
    assert "Too many open files" in program.log


def test_a_job_waits_while_the_fork_server_has_no_descriptor_and_nothing_leaks(
    run_children: RunProgram, push: Push, wait_until: WaitUntil, reported: Reported
) -> None:
    def limit(more: int) -> None:
        soft = len(os.listdir(f"/proc/{fork_server}/fd")) + more
        resource.prlimit(fork_server, resource.RLIMIT_NOFILE, (soft, hard))

    def attempts() -> int:
        return program.notes.count("attempt")

    program = run_children(
        """
def backoff(*_):
    note("attempt")
    return 0.05
work(timing=Timing(backoff=backoff)).run()
"""
    )
    wait_until(lambda: len(program.processes) == 1)
    (fork_server,) = program.processes
    reported(push("decorated", 1), "ACK")
    (child,) = set(program.processes) - {fork_server}
    _, hard = resource.prlimit(fork_server, resource.RLIMIT_NOFILE)
    before = len(os.listdir(f"/proc/{fork_server}/fd"))
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: len(os.listdir(f"/proc/{fork_server}/fd")) == before - 2)
    limit(0)
    jid = push("decorated", 2)
    for more in range(1, 4):  # a child needs four for a moment
        seen = attempts()
        wait_until(lambda seen=seen: attempts() >= seen + 2)
        limit(more)
    resource.prlimit(fork_server, resource.RLIMIT_NOFILE, (hard, hard))
    reported(jid, "ACK")
    assert len(os.listdir(f"/proc/{fork_server}/fd")) == before
    assert program.log.count("the system gives no process") == 1


def test_a_child_that_is_killed_fails_its_own_job_only(
    server: EmbeddedServer, run_children: RunProgram, push: Push, wait_until: WaitUntil
) -> None:
    jids = [push("held"), push("held")]
    program = run_children("work(concurrency=2).run()")
    wait_until(lambda: len(program.notes) == 2)
    os.kill(int(program.notes[0].split()[1]), signal.SIGKILL)
    wait_until(lambda: sorted(reports(server, jid) for jid in jids) == [[], ["FAIL"]])
    program.release()
    wait_until(lambda: sorted(reports(server, jid) for jid in jids) == [["ACK"], ["FAIL"]])


def test_a_child_that_dies_between_two_jobs_fails_no_job(
    run_children: RunProgram, push: Push, wait_until: WaitUntil, reported: Reported
) -> None:
    first = push("decorated", 1)
    program = run_children()
    reported(first, "ACK")
    child = int(program.notes[-1].split()[-1])
    (fork_server,) = set(program.processes) - {child}

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{fork_server}/fd"))

    before = descriptors()
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: descriptors() == before - 2)  # the worker can know of the death now
    reported(push("decorated", 2), "ACK")


def test_the_output_of_a_job_is_printed_once(
    server: EmbeddedServer, run_children: RunProgram, push: Push, wait_until: WaitUntil
) -> None:
    jids = [push("prints", number) for number in range(2)]
    program = run_children(
        """
@faktory.job
def prints(number):
    print("printed", number)
    if number: os._exit(0)
print("beforehand")
work().run()
"""
    )
    wait_until(lambda: all(reports(server, jid) for jid in jids))
    assert program.log.count("beforehand") == program.log.count("printed 0") == 1


def test_processes_that_a_job_started_do_not_hide_that_its_process_died(
    server: EmbeddedServer, run_children: RunProgram, push: Push, wait_until: WaitUntil
) -> None:
    jid = push("starts")
    program = run_children(
        """
@faktory.job
def starts():
    os.system(f"until [ -e {OUT}.released ]; do sleep 0.05; done &")
    if os.fork() == 0:
        hold()
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)
work().run()
"""
    )
    wait_until(lambda: reports(server, jid) == ["FAIL"])
    assert len(program.processes) >= 3  # the fork server, and those that the job started
    program.release()


def test_a_job_waits_until_the_system_gives_a_process(
    run_children: RunProgram, push: Push, reported: Reported
) -> None:
    jid = push("decorated", 1)
    program = run_children(
        """
fork, failures = os.fork, [OSError(11, "no more")] * 2
def seldom():
    if os.getpid() != MAIN and failures: raise failures.pop()
    return fork()
os.fork = seldom
work(timing=Timing(backoff=lambda *_: 0.01)).run()
"""
    )
    reported(jid, "ACK")
    assert program.log.count("the system gives no process") == 1


def test_other_threads_at_the_start_are_logged_as_a_warning(
    server: EmbeddedServer, run_children: RunProgram, wait_until: WaitUntil
) -> None:
    program = run_children(
        """
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
work().run()
"""
    )
    wait_until(lambda: "runs 1 other threads" in program.log)
    wait_until(lambda: server.workers)  # from then on a signal stops it


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_children_killed_at_random_lose_no_job(
    server: EmbeddedServer, run_children: RunProgram, wait_until: WaitUntil
) -> None:
    count = 5000
    with Client(server.url) as client:
        jobs = ({"jobtype": "work", "args": [n], "retry": 0} for n in range(count))
        assert client.push_bulk(jobs) == {}
        program = run_children(
            """
@faktory.job(name="work")
def work_(number):
    time.sleep(0.002)
    note("ran", number)
logging.getLogger("faktory").setLevel(logging.ERROR)
work(concurrency=4).run()
"""
        )
        dice = random.Random(1)
        wait_until(lambda: program.notes)
        fork_server = min(program.processes)

        def totals() -> dict[str, Any]:
            found: dict[str, Any] = client.info()["faktory"]
            return found

        end = time.monotonic() + 240
        kills = 0
        while totals()["total_processed"] + totals()["total_failures"] < count:
            assert time.monotonic() < end
            for pid in dice.sample(program.processes, 1):
                if pid != fork_server:
                    kills += 1
                    os.kill(pid, signal.SIGKILL)
            wait_until(lambda: len(program.processes) > 1)
            time.sleep(0.03)
        wait_until(lambda: not totals()["sets"]["working"] if "sets" in totals() else True)
    assert program.stop() == 0
    acked = [text for verb, text in server.commands if verb == "ACK"]
    failed = [text for verb, text in server.commands if verb == "FAIL"]
    assert len(acked) + len(failed) == count
    assert all("ProcessDied" in text and "SIGKILL" in text for text in failed)
    assert 20 < len(failed) <= kills
    ran = {note.split()[1] for note in program.notes if note.startswith("ran")}
    assert len(ran) >= len(acked)
