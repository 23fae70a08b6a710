"""What only an async client does: loops, forks, backpressure, timeouts of what waits for others."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
import warnings
from itertools import pairwise

import pytest

from faktory import AsyncClient, testing
from faktory.aio import bulk
from faktory.exceptions import FaktoryBulkError, FaktoryConnectionError, FaktoryTimeout
from faktory.server import EmbeddedServer

from ..client.conftest import OK, SHORT, job
from .support import KINDS, new_loop, run_in

SILENT = [":greet", ":silence"]


def test_no_password_is_shown():
    client = AsyncClient("tcp://:secret@example.com:99")
    assert repr(client) == "<faktory.AsyncClient tcp://:***@example.com:99, not connected>"


def test_many_tasks_share_one_connection_and_commands_go_out_in_order(kind, scripted):
    server = scripted([":greet", ":echo"])

    async def main():
        async with AsyncClient(server.url) as client:

            async def ask(task):
                for number in range(25):
                    said = f"{task}-{number}"
                    assert await client.command("ECHO", said) == said

            await asyncio.gather(*map(ask, range(8)))

    run_in(kind, main())
    assert server.ended[0].wait(20)
    said = [line.split()[1].decode() for line in server.lines[0] if line.startswith(b"ECHO")]
    assert said[:8] == [f"{task}-0" for task in range(8)]
    for task in range(8):
        own = [each for each in said if each.startswith(f"{task}-")]
        assert own == [f"{task}-{number}" for number in range(25)]


def test_tasks_that_begin_at_the_same_time_wait_for_one_connection(kind, scripted):
    server = scripted([":greet", ":echo"])

    async def main():
        client = AsyncClient(server.url)
        said = await asyncio.gather(*[client.command("ECHO", str(n)) for n in range(50)])
        assert said == [str(number) for number in range(50)]
        await client.aclose()

    run_in(kind, main())


def test_without_a_server_each_of_them_gets_the_error(kind, closed_port):
    async def main():
        client = AsyncClient(f"tcp://127.0.0.1:{closed_port}")
        errors = await asyncio.gather(*[client.info() for _ in range(5)], return_exceptions=True)
        assert {type(error) for error in errors} == {FaktoryConnectionError}
        await client.aclose()

    run_in(kind, main())


# Loops


def test_another_loop_gets_an_error(kind, scripted):
    server = scripted([":greet", "INFO", {}, "END"])
    client = AsyncClient(server.url)
    loop = new_loop(kind)
    try:
        loop.run_until_complete(client.info())
        errors = []

        async def use():
            for call in (client.info, client.connect, client.aclose, lambda: client.fetch("q")):
                with pytest.raises(RuntimeError, match="belongs to another event loop") as caught:
                    await call()
                errors.append(caught.value)

        run_in(kind, use())
        thread = threading.Thread(target=lambda: run_in(kind, use()))
        thread.start()
        thread.join()
        assert len(errors) == 8
        loop.run_until_complete(client.aclose())
    finally:
        loop.close()


def test_after_aclose_any_loop_may_use_the_client(kind, scripted):
    server = scripted([":greet", "INFO", {}, "END"], [":greet", "INFO", {}, "END"])
    client = AsyncClient(server.url)

    async def main():
        assert await client.info() == {}
        await client.aclose()
        await client.aclose()

    run_in(kind, main())
    run_in(kind, main())


# Forks


@pytest.mark.parametrize("child_kind", KINDS)
def test_a_forked_child_has_a_connection_of_its_own_and_leaves_the_parents_alone(
    kind, child_kind, scripted
):
    new_loop(child_kind).close()  # or skip
    server = scripted([":greet", ":echo"], [":greet", ":echo"])

    async def main():
        client = AsyncClient(server.url)
        assert await client.command("ECHO", "before") == "before"
        descriptor = client._connection._transport._socket.fileno()
        warnings.simplefilter("ignore", DeprecationWarning)  # that there are threads
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.fstat(descriptor)

                async def child():
                    assert await client.command("ECHO", "child") == "child"
                    await client.aclose()

                asyncio.events._set_running_loop(None)
                run_in(child_kind, child())
                code = 0
            finally:
                os._exit(code)
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert status == 0
        assert await client.command("ECHO", "after") == "after"
        await client.aclose()

    with warnings.catch_warnings():
        run_in(kind, main())
    for ended in server.ended:
        assert ended.wait(20)
    assert server.lines[0][1:] == [b"ECHO before\r\n", b"ECHO after\r\n", b"END\r\n"]
    assert server.lines[1][1:] == [b"ECHO child\r\n", b"END\r\n"]


# Timeouts and backpressure


def test_the_timeout_of_a_command_begins_when_it_is_the_oldest(kind, scripted):
    answer = ["ACK", lambda: time.sleep(0.9), OK]
    server = scripted([":greet", *answer, *answer, "END"])

    async def main():
        async with AsyncClient(server.url, timeout=1.6) as client:
            await asyncio.gather(client.ack("12345678"), client.ack("87654321"))

    run_in(kind, main())


def test_a_server_that_falls_silent_times_out_for_all(kind, scripted):
    server = scripted([":greet", *["PUSH"] * 3, ":silence"])

    async def main():
        client = AsyncClient(server.url)
        await client.connect()
        client._connection._transport._timeout = SHORT
        pushes = [client.push(job(number)) for number in range(3)]
        errors = await asyncio.gather(*pushes, return_exceptions=True)
        assert {type(error.__cause__) for error in errors} == {FaktoryTimeout}
        assert [error.jids for error in errors] == [[f"job-{number:04}"] for number in range(3)]
        await client.aclose()

    run_in(kind, main())


def test_no_more_than_64_kib_beside_a_command_wait_in_the_loop(kind):
    size = 200_000

    async def main():
        async with AsyncClient(server.url) as client:
            transport = client._connection._transport._transport
            most = 0
            write = client._connection._transport._transport.write

            class Watched:
                def __getattr__(self, name):
                    return getattr(transport, name)

                def write(self, data):
                    nonlocal most
                    write(data)
                    most = max(most, transport.get_write_buffer_size())

            client._connection._transport._transport = Watched()
            large = {"jobtype": "T", "args": ["x" * size]}
            await asyncio.gather(*[client.push(large) for _ in range(100)])
            assert most <= 65536 + size + 1000
            assert (await client.info())["faktory"]["total_enqueued"] == 100

    with EmbeddedServer() as server:
        run_in(kind, main())


# Many jobs


def test_other_tasks_have_turns_while_many_jobs_are_pushed(kind, scripted, monkeypatch):
    server = scripted([":greet", "PUSHB", {}, "END"])
    turns = []
    during = []

    async def tick():
        while True:
            turns.append(None)
            await asyncio.sleep(0)

    def jobs():
        for number in range(20):
            during.append(len(turns))
            yield job(number)

    async def main():
        async with AsyncClient(server.url) as client:
            other = asyncio.create_task(tick())
            monkeypatch.setattr(bulk, "TURN", 0)  # instead of 2 ms
            assert await client.push_bulk(jobs()) == {}
            other.cancel()

    run_in(kind, main())
    assert all(before < after for before, after in pairwise(during))


def test_an_async_iterable_is_consumed_at_most_a_chunk_ahead(kind, scripted):
    drawn, seen = [], []
    chunk = ("PUSHB", lambda: seen.append(len(drawn)), {})
    server = scripted([":greet", *chunk * 4, "END"])

    async def jobs():
        for number in range(12):
            drawn.append(number)
            await asyncio.sleep(0)
            yield job(number)

    async def main():
        async with AsyncClient(server.url) as client:
            assert await client.push_bulk(jobs(), batch_size=3) == {}

    run_in(kind, main())
    assert len(seen) == 4
    assert all(3 * n <= drawn_then <= 3 * (n + 1) for n, drawn_then in enumerate(seen, 1))


def test_an_async_source_that_raises_accounts_for_its_jobs(kind, scripted):
    server = scripted([":greet", "PUSHB", {"job-0001": "no"}, "END"])

    async def jobs():
        for number in range(3):
            yield job(number)
        raise KeyError("source")

    async def main():
        async with AsyncClient(server.url) as client:
            with pytest.raises(FaktoryBulkError, match="their source raised KeyError") as caught:
                await client.push_bulk(jobs(), batch_size=2)
            assert caught.value.refused == {"job-0001": "no"}
            assert caught.value.unsent == ["job-0002"]

    run_in(kind, main())


# TLS, passwords, test modes


def test_a_connection_with_tls_and_a_password(kind, certificate, client_tls):
    server = EmbeddedServer(tls_cert=str(certificate[0]), tls_key=str(certificate[1]), password="x")

    async def main():
        async with AsyncClient(server.url, ssl_context=client_tls) as client:
            pushes = [client.push(job(number)) for number in range(50)]
            assert len(await asyncio.gather(*pushes)) == 50
            assert (await client.fetch("default"))["jid"] == "job-0000"
        plain = AsyncClient(server.url.replace("tcp+tls", "tcp"), timeout=5)
        with pytest.raises(FaktoryConnectionError, match=r"Then use tcp\+tls://"):
            await plain.connect()
        untrusted = AsyncClient(server.url)
        with pytest.raises(FaktoryConnectionError, match="cannot be trusted: self"):
            await untrusted.connect()

    with server:
        run_in(kind, main())


def test_a_test_mode_takes_the_servers_place(kind):
    async def main():
        client = AsyncClient("tcp://127.0.0.1:1")
        await client.push(job(1))
        assert await client.push_bulk([job(2), job(3)]) == {}
        assert client.is_connected
        assert (await client.fetch("default"))["jid"] == "job-0001"
        await client.aclose()

    with testing.fake() as server:
        run_in(kind, main())
        assert [each["jid"] for each in server.jobs] == ["job-0002", "job-0003"]


PROGRAM = """
import asyncio, sys, time
import faktory
from faktory.server import EmbeddedServer

@faktory.job
def resize(number): ...

async def main(url):
    asyncio.get_running_loop().slow_callback_duration = 60  # no lines of a busy machine
    async with faktory.AsyncClient(url) as client:
        await asyncio.gather(*[client.push({"jobtype": "T", "args": []}) for _ in range(20)])
        fetch = asyncio.create_task(client.fetch("empty"))
        await asyncio.sleep(0.01)
        fetch.cancel()
    faktory.configure(url=url)
    await resize.aperform(1)
    await resize.aperform_bulk([(1,), (2,)])

with EmbeddedServer() as server:
    if sys.argv[1] == "asyncio":
        asyncio.run(main(server.url), debug=True)
    else:
        import uvloop
        uvloop.run(main(server.url), debug=True)
    while [verb for verb, _ in server.commands].count("END") < 2:
        time.sleep(0.01)
    print(sum(map(len, server.queues.values())))
"""


def test_a_program_in_development_mode_sees_no_warning(kind):
    new_loop(kind).close()  # or skip
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM, kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("23\n", "")
