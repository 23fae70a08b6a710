"""Tasks that are cancelled at any moment: no job is lost, and no answer reaches another's task."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections import Counter

import pytest

from faktory import AsyncClient
from faktory.aio.exchange import Exchange
from faktory.aio.transport import Transport
from faktory.client import Client
from faktory.exceptions import FaktoryConnectionError, FaktoryOutcomeUnknown
from faktory.server import EmbeddedServer
from faktory.server.state import Timing

from ..client.conftest import OK, job
from .support import run_in

FETCHED = {"jid": "12345678", "jobtype": "T", "args": [], "queue": "q"}
SHUTDOWN = b"-ERR shutdown in progress\r\n"


async def until(condition):
    """Wait until a condition is true that a callback of the loop makes true."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def cancelled(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def written(client):
    return client._connection._transport is not None and client._connection._transport._written


# What becomes of a command


def test_a_push_that_is_cancelled_before_it_is_sent_has_not_happened(kind, scripted, caplog):
    server = scripted([":greet", "INFO", {}, "END"])

    async def main():
        client = AsyncClient(server.url)
        push = asyncio.create_task(client.push(job(1)))
        await asyncio.sleep(0)  # it waits for the connection
        await cancelled(push)
        assert await client.info() == {}
        await client.aclose()

    run_in(kind, main())
    assert server.ended[0].wait(20)
    assert server.verbs(0) == ["HELLO", "INFO", "END"]
    assert not [record for record in caplog.records if record.name.startswith("faktory")]


def test_a_push_that_waits_behind_64_kib_and_is_cancelled_has_not_happened(kind, scripted):
    go_on = threading.Event()
    large = {"jobtype": "T", "args": ["x" * 20_000_000]}
    server = scripted([":greet", lambda: go_on.wait(20), "PUSH", OK, "ACK", OK, "END"])

    async def main():
        async with AsyncClient(server.url) as client:
            first = asyncio.create_task(client.push(large))
            await until(lambda: client._connection._transport._paused)
            second = asyncio.create_task(client.push(job(2)))
            third = asyncio.create_task(client.ack("12345678"))
            await asyncio.sleep(0)
            await cancelled(second)
            go_on.set()
            await asyncio.gather(first, third)

    run_in(kind, main())


@pytest.mark.parametrize("bulk", [False, True])
def test_a_push_that_is_cancelled_after_it_was_sent_is_logged_and_its_answer_dropped(
    kind, scripted, caplog, bulk
):
    go_on = threading.Event()
    answers = (
        ["PUSHB", lambda: go_on.wait(20), {}] if bulk else ["PUSH", lambda: go_on.wait(20), OK]
    )
    server = scripted([":greet", *answers, "INFO", {"a": 1}, "END"])

    async def main():
        async with AsyncClient(server.url) as client:
            call = client.push_bulk([job(1), job(2)]) if bulk else client.push(job(1))
            push = asyncio.create_task(call)
            await until(lambda: written(client))
            await cancelled(push)
            go_on.set()
            assert await client.info() == {"a": 1}

    run_in(kind, main())
    [record] = [record for record in caplog.records if record.name.startswith("faktory")]
    assert (record.name, record.levelno) == ("faktory.connection", logging.WARNING)
    of = "PUSHB of job-0001 and 1 more" if bulk else "PUSH of job-0001"
    assert record.getMessage().startswith(f"{of} was sent before its task was cancelled")


def test_a_job_whose_fetch_was_cancelled_is_that_of_the_next_fetch(kind, scripted):
    go_on = threading.Event()
    server = scripted([":greet", "FETCH q", lambda: go_on.wait(20), FETCHED, "ACK", OK, "END"])

    async def main():
        async with AsyncClient(server.url) as client:
            fetch = asyncio.create_task(client.fetch("q"))
            await until(lambda: written(client))
            await cancelled(fetch)
            go_on.set()
            await until(lambda: client._connection.kept)
            assert await client.fetch("other") == FETCHED
            await client.ack("12345678")

    run_in(kind, main())


def test_fetches_that_are_cancelled_again_and_again_do_not_pile_up(kind, scripted):
    go_on = threading.Event()
    server = scripted([":greet", "FETCH q", lambda: go_on.wait(20), FETCHED, "ACK", OK, "END"])

    async def main():
        async with AsyncClient(server.url) as client:
            for _ in range(100):
                fetch = asyncio.create_task(client.fetch("q"))
                await until(lambda: written(client))
                await asyncio.sleep(0)
                await cancelled(fetch)
            go_on.set()
            assert await client.fetch("q") == FETCHED
            await client.ack("12345678")

    run_in(kind, main())


def test_the_answer_and_the_cancellation_of_a_fetch_in_one_turn_of_the_loop(
    kind, scripted, monkeypatch
):
    server = scripted([":greet", "FETCH", FETCHED, "ACK", OK, "END"])
    read = Transport.buffer_updated
    fetches = []

    def read_and_cancel(self, nbytes):
        read(self, nbytes)
        for fetch in fetches:
            fetch.cancel()

    monkeypatch.setattr(Transport, "buffer_updated", read_and_cancel)

    async def main():
        async with AsyncClient(server.url) as client:
            fetch = asyncio.create_task(client.fetch("q"))
            fetches.append(fetch)
            with pytest.raises(asyncio.CancelledError):
                await fetch
            assert await client.fetch("q") == FETCHED
            await client.ack("12345678")

    run_in(kind, main())


def test_closing_waits_for_a_fetch_under_way_and_fails_what_it_brings(kind, scripted):
    go_on = threading.Event()
    server = scripted([":greet", "FETCH", lambda: go_on.wait(20), FETCHED, "FAIL", OK, "END"])

    async def main():
        client = AsyncClient(server.url)
        fetch = asyncio.create_task(client.fetch("q"))
        await until(lambda: written(client))
        await cancelled(fetch)
        close = asyncio.create_task(client.aclose())
        await asyncio.sleep(0)
        go_on.set()
        await close
        assert not client.is_connected

    run_in(kind, main())
    assert b'"jid":"12345678","errtype":"Cancelled"' in server.lines[0][2]


def test_a_job_pushed_while_a_client_closes_is_not_stranded(kind):
    """The server hands out a job for a FETCH whose connection is closed."""
    with EmbeddedServer(timing=Timing(fetch_wait=0.3)) as server, Client(server.url) as other:

        async def main():
            client = AsyncClient(server.url)
            fetch = asyncio.create_task(client.fetch("q"))
            await until(lambda: ("FETCH", "q") in server.commands)
            await cancelled(fetch)
            await client.aclose()

        run_in(kind, main())
        other.push({"jobtype": "T", "args": [], "queue": "q"})
        assert other.fetch("q") is not None


def test_a_close_that_is_cancelled_closes_at_once_and_names_the_jobs(kind, scripted, caplog):
    hold = threading.Event()
    server = scripted([":greet", "FETCH", FETCHED, "FAIL", lambda: hold.wait(20)])

    async def main():
        client = AsyncClient(server.url)
        await client.connect()
        client._connection._keep(await client.fetch("q"))
        close = asyncio.create_task(client.aclose())
        await until(lambda: written(client))
        await cancelled(close)
        assert not client.is_connected
        hold.set()

    run_in(kind, main())
    assert "the job 12345678, whose fetch was cancelled, is not reported" in caplog.text


# What breaks


def test_the_greeting_may_come_before_the_connection_is_returned(kind, scripted, monkeypatch):
    server = scripted([":greet", "INFO", {}, "END"])
    arrived = []
    read = Transport.buffer_updated

    def read_and_note(self, nbytes):
        arrived.append(nbytes)
        read(self, nbytes)

    monkeypatch.setattr(Transport, "buffer_updated", read_and_note)

    async def main():
        loop = asyncio.get_running_loop()
        connect = loop.create_connection

        async def late(*args, **kwargs):
            made = await connect(*args, **kwargs)
            await until(lambda: arrived)
            return made

        monkeypatch.setattr(loop, "create_connection", late, raising=False)
        async with AsyncClient(server.url, timeout=5) as client:
            assert await client.info() == {}

    run_in(kind, main())


def test_behind_an_error_by_which_the_server_ends_nothing_ran_and_all_is_sent_again(kind, scripted):
    server = scripted(
        [":greet", *["PUSH"] * 3, OK + SHUTDOWN, ":silence"],
        [":greet", "PUSH", "PUSH", OK, OK, "END"],
    )

    async def main():
        async with AsyncClient(server.url) as client:
            pushed = await asyncio.gather(*[client.push(job(number)) for number in range(3)])
        assert pushed == ["job-0000", "job-0001", "job-0002"]

    run_in(kind, main())
    assert server.lines[1][1:3] == server.lines[0][2:4]


def test_behind_such_an_error_without_a_new_connection_the_outcome_is_known(kind, scripted):
    server = scripted([":greet", "PUSH", "PUSH", SHUTDOWN])

    async def main():
        async with AsyncClient(server.url) as client:
            pushes = [client.push(job(number)) for number in range(2)]
            errors = await asyncio.gather(*pushes, return_exceptions=True)
        assert [isinstance(error, FaktoryConnectionError) for error in errors] == [True, True]
        assert not any(isinstance(error, FaktoryOutcomeUnknown) for error in errors)

    run_in(kind, main())


def test_all_that_was_written_counts_as_sent_when_the_connection_breaks(kind, scripted):
    """The loop has thrown away what had not left, before the client learns of the break."""
    go_on = threading.Event()
    server = scripted([":greet", "PUSH", lambda: go_on.wait(20), ":reset"])
    large = {"jobtype": "T", "args": ["x" * 20_000_000], "jid": "job-0002"}

    async def main():
        async with AsyncClient(server.url) as client:
            first = asyncio.create_task(client.push(job(1)))
            second = asyncio.create_task(client.push(large))
            await until(lambda: client._connection._transport._paused)
            third = asyncio.create_task(client.push(job(3)))
            await asyncio.sleep(0)
            go_on.set()
            errors = await asyncio.gather(first, second, third, return_exceptions=True)
        unknown = [isinstance(error, FaktoryOutcomeUnknown) for error in errors]
        assert unknown == [True, True, False]  # nothing of the third was written
        assert isinstance(errors[2], FaktoryConnectionError)

    run_in(kind, main())


def test_an_end_of_file_that_came_while_the_loop_was_blocked_is_seen_before_a_push(kind, scripted):
    close = threading.Event()
    server = scripted([":greet", lambda: close.wait(20)], [":greet", "PUSH", OK, "END"])

    async def main():
        async with AsyncClient(server.url) as client:
            close.set()
            assert server.ended[0].wait(20)  # blocks the loop
            assert await client.push(job(1)) == "job-0001"

    run_in(kind, main())
    assert server.verbs(0) == ["HELLO"]


# Many of them


def test_of_200_tasks_40_percent_are_cancelled_and_the_others_get_their_answers(kind, scripted):
    server = scripted([":greet", ":echo"])
    rng = random.Random(7)
    got = Counter()

    async def main():
        async with AsyncClient(server.url) as client:

            async def ask(number):
                for turn in range(20):
                    try:
                        assert (
                            await client.command("ECHO", f"{number}-{turn}") == f"{number}-{turn}"
                        )
                    except asyncio.CancelledError:
                        got["cancelled"] += 1
                        raise
                    got["answered"] += 1

            tasks = [asyncio.create_task(ask(number)) for number in range(200)]
            doomed = rng.sample(tasks, 80)
            for task in doomed:
                for _ in range(rng.randrange(3)):
                    await asyncio.sleep(0)
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            errors = {type(each) for each in done} - {type(None), asyncio.CancelledError}
            assert not errors
            assert await client.command("ECHO", "last") == "last"

    run_in(kind, main())
    assert got["cancelled"] > 10
    assert got["answered"] >= 120 * 20


@pytest.fixture(params=["embedded", "real"])
def fetch_from(request):
    """The address of each server in turn, and a queue that nobody else uses."""
    if request.param == "real":
        yield request.getfixturevalue("real_server_url")
        return
    with EmbeddedServer(timing=Timing(fetch_wait=0.1)) as server:
        yield server.url


@pytest.mark.parametrize(
    ("kind", "jobs"),
    [
        ("asyncio", 600),
        pytest.param("asyncio", 3000, marks=pytest.mark.soak),
        pytest.param("uvloop", 3000, marks=pytest.mark.soak),
    ],
)
def test_many_tasks_that_fetch_are_cancelled_and_each_job_is_accounted_for(
    kind, jobs, fetch_from, monkeypatch
):
    """A fifth of them in the turn of the loop in which the answer comes."""
    queue = f"cancelled-{kind}-{random.SystemRandom().randrange(10**9)}"
    rng = random.Random(3)
    seen: Counter[str] = Counter()
    tasks: list[asyncio.Task[None]] = []
    read = Transport.buffer_updated

    def read_and_cancel(self, nbytes):
        oldest = self._written[0] if self._written else None
        read(self, nbytes)
        waits = oldest in owners and oldest.future.done() and not oldest.future.cancelled()
        if waits and rng.random() < 0.2:
            seen["same turn"] += 1
            owners[oldest].cancel()

    owners: dict[Exchange, asyncio.Task[None]] = {}
    monkeypatch.setattr(Transport, "buffer_updated", read_and_cancel)

    async def main():
        async with AsyncClient(fetch_from) as control:
            await control.push_bulk(
                {"jid": f"{queue}-{number}", "jobtype": "T", "args": [], "queue": queue}
                for number in range(jobs)
            )
            async with AsyncClient(fetch_from, worker_id=queue) as client:
                transport = client._connection._transport
                exchange, adopt = transport.exchange, transport.adopt

                def note(found):
                    if found is not None and found.is_fetch:
                        owners[found] = asyncio.current_task()
                    return found

                transport.exchange = lambda sent: note(exchange(sent))
                transport.adopt = lambda sent: note(adopt(sent))

                async def work():
                    if (job := await client.fetch(queue)) is not None:
                        seen[job["jid"]] += 1

                for number in range(jobs):
                    tasks.append(asyncio.create_task(work()))
                    if number % 20 == 0:
                        await asyncio.sleep(0)
                    if rng.random() < 0.3:
                        rng.choice(tasks).cancel()
                    if number % 100 == 99:
                        await asyncio.wait(tasks[:-20])
                await asyncio.wait(tasks)
                assert client._connection._transport is transport
            info = await control.info()
            waiting = info["faktory"]["queues"].get(queue, 0)
            failed = 0
            failed_jids = set()
            while True:  # those FAILed by aclose wait among the retries: have them queued
                await control.requeue("retries", matching=f"*{queue}-*")
                job = await control.fetch(queue)
                if job is None:
                    break
                failed_jids.add(job["jid"])
                failed += "failure" in job
                await control.ack(job["jid"])
        return waiting, failed, failed_jids

    waiting, failed, left = run_in(kind, main())
    same_turn = seen.pop("same turn")
    assert same_turn > jobs // 300
    assert max(seen.values()) == 1, "a job reached two tasks"
    assert not left & seen.keys()
    assert len(seen) + len(left) == jobs
    assert waiting + failed == len(left)
