"""Pushing declared jobs on an event loop: aperform and its like, and middleware around them."""

from __future__ import annotations

import asyncio
import gc
from datetime import timedelta

import pytest

import faktory
from faktory import testing
from faktory.aio import bulk
from faktory.exceptions import FaktoryBulkError, FaktoryEnterpriseRequired, FaktoryPayloadError
from faktory.jobs import client_middleware
from faktory.server import EmbeddedServer

from ..jobs.support import new_process
from ..support import wait_until
from .support import run_in


@pytest.fixture(autouse=True)
def own_process():
    with new_process():
        yield


def declare():
    @faktory.job(queue="images")
    def resize(image: int, size: str = "thumb"): ...

    return resize


class Shrink(faktory.Job):
    def perform(self, image: int): ...


def pushed(run, kind="asyncio"):
    """Run a coroutine function in fake mode; return the jobs, without what differs each time."""
    with testing.fake() as server:
        run_in(kind, run())
        return [
            {
                name: value
                for name, value in job.items()
                if name not in ("jid", "created_at", "enqueued_at")
            }
            for job in server.jobs
        ]


def sent(server):
    """Return the verbs that a server was sent."""
    return [verb for verb, _ in server.commands]


def test_each_way_of_pushing_sends_what_the_blocking_one_sends(kind):
    resize = declare()
    rows = [(number, "full") for number in range(1500)]

    async def blocking():
        resize.perform_async(1, size="full")
        resize.set(queue="low").perform_async(2)
        resize.perform_at("2100-01-01T00:00:00Z", 3)
        resize.perform_bulk(rows)
        resize.perform_bulk(rows[:3], at="2100-01-01T00:00:00Z", over=60)
        Shrink.perform_async(1)
        Shrink.perform_at("2100-01-01T00:00:00Z", 1)
        Shrink.perform_bulk([(1,), (2,)])
        resize.message(7).push()

    async def asynchronous():
        jid = await resize.aperform(1, size="full")
        assert len(jid) == 24
        await resize.set(queue="low").aperform(2)
        await resize.aperform_at("2100-01-01T00:00:00Z", 3)
        assert len(await resize.aperform_bulk(rows)) == 1500
        await resize.aperform_bulk(rows[:3], at="2100-01-01T00:00:00Z", over=60)
        await Shrink.aperform(1)
        await Shrink.aperform_at("2100-01-01T00:00:00Z", 1)
        await Shrink.aperform_bulk([(1,), (2,)])
        await resize.message(7).apush()

    assert pushed(asynchronous, kind) == pushed(blocking)


def test_a_delay_is_from_now_on():
    resize = declare()

    async def main():
        await resize.aperform_in(timedelta(hours=1), 1)
        await Shrink.aperform_in(0, 1)

    later, now = pushed(main)
    assert "at" in later
    assert "at" not in now


def test_wrong_arguments_are_refused_in_the_same_words():
    resize = declare()

    async def main():
        with pytest.raises(TypeError, match="missing a required argument"):
            await resize.aperform()
        with pytest.raises(FaktoryPayloadError, match="image"):
            await resize.aperform({1, 2})
        with pytest.raises(TypeError, match=r"rows\[130\]"):
            await resize.aperform_bulk([(1,)] * 130 + [()])
        with pytest.raises(FaktoryPayloadError, match=r"rows\[130\]\[0\] is an object"):
            await resize.aperform_bulk([(1,)] * 130 + [(object(),)])
        with pytest.raises(TypeError, match="whose clients block the event loop"):
            await resize.set(pool=faktory.Pool("tcp://127.0.0.1:1")).aperform(1)

    assert pushed(main) == []


def test_the_tasks_of_a_loop_share_a_client_that_closes_with_it(kind):
    resize = declare()

    async def main():
        await asyncio.gather(*[resize.aperform(number) for number in range(50)])
        await resize.aperform_bulk([(1,)] * 2500)

    with EmbeddedServer() as server:
        faktory.configure(url=server.url)
        for _ in range(2):
            run_in(kind, main())
        wait_until(lambda: sent(server).count("END") == 2)
        assert sent(server).count("HELLO") == 2
        assert len(server.queues["images"]) == 2 * 2550


def test_other_settings_make_another_client(kind):
    resize = declare()
    with EmbeddedServer() as first, EmbeddedServer() as second:

        async def main():
            for server in (first, second):
                faktory.configure(url=server.url)
                await resize.aperform(1)

        run_in(kind, main())
        for server in (first, second):
            wait_until(lambda server=server: sent(server) == ["HELLO", "PUSH", "END"])


@pytest.mark.parametrize("enterprise", [False, True])
def test_a_server_that_would_ignore_options_is_not_given_the_job(kind, enterprise):
    with EmbeddedServer(enterprise=enterprise) as server:
        faktory.configure(url=server.url)
        resize = declare().set(unique_for=60)

        async def main():
            await resize.aperform(1)
            await resize.aperform(1)

        kind_of_error = faktory.FaktoryNotUnique if enterprise else FaktoryEnterpriseRequired
        with pytest.raises(kind_of_error):
            run_in(kind, main())
        assert sent(server).count("INFO") == 1
        assert sent(server).count("PUSH") == 2 * enterprise


def test_what_a_server_refuses_is_named(kind):
    resize = declare()
    with EmbeddedServer() as server:
        faktory.configure(url=server.url)
        server.drop_after("PUSHB")

        async def main():
            with pytest.raises(FaktoryBulkError) as caught:
                await resize.aperform_bulk([(1,)] * 10)
            assert len(caught.value.unknown) == 10

        run_in(kind, main())


# Middleware


def test_a_middleware_that_only_looks_at_the_payload_runs_as_it_is(kind):
    resize = declare()
    given = []

    @client_middleware.add
    def tag(payload, call_next):
        payload["custom"] = {"tag": payload["args"][0]}
        given.append(call_next())
        return given[-1]

    async def main():
        assert len(await resize.aperform(1)) == 24
        assert len(await resize.aperform_bulk([(2,), (3,)])) == 2

    jobs = pushed(main, kind)
    assert [job["custom"] for job in jobs] == [{"tag": 1}, {"tag": 2}, {"tag": 3}]
    assert len(given) == 3


def test_a_twin_runs_in_the_place_of_a_middleware_and_sees_the_end(kind):
    resize = declare()
    seen = []

    def outer(payload, call_next):
        seen.append("outer")
        return call_next()

    def timed(payload, call_next):
        raise AssertionError("its twin runs")

    async def timed_async(payload, call_next):
        seen.append("begin")
        jid = await call_next()
        seen.append(jid)
        return jid

    client_middleware.add(outer)
    assert client_middleware.add(timed, aio=timed_async) is timed

    async def main():
        jid = await resize.aperform(1)
        assert seen == ["outer", "begin", jid]
        await resize.aperform_bulk([(1,)])
        assert len(seen) == 6

    assert len(pushed(main, kind)) == 2
    client_middleware.add(timed)  # without a twin from now on

    with pytest.raises(AssertionError, match="its twin"), testing.fake():
        run_in(kind, resize.aperform(1))
    client_middleware.remove(timed)
    assert len(pushed(lambda: resize.aperform(1))) == 1


def test_a_middleware_that_stops_the_push_stops_it(kind):
    resize = declare()

    def stop(payload, call_next):
        return "stopped" if payload["args"][0] == 1 else call_next()

    async def around(payload, call_next):
        return await call_next()

    client_middleware.add(lambda payload, call_next: call_next(), aio=around)
    client_middleware.add(stop)

    async def main():
        assert await resize.aperform(1) == "stopped"
        assert len(await resize.aperform_bulk([(1,), (2,)])) == 1

    assert [job["args"] for job in pushed(main, kind)] == [[2]]


def test_a_middleware_that_drops_what_call_next_gives_is_an_error(kind):
    resize = declare()

    @client_middleware.add
    def count(payload, call_next):
        call_next()

    async def main():
        with pytest.raises(
            RuntimeError, match=r"count has called call_next\(\) and does not return"
        ):
            await resize.aperform(1)
        gc.collect()

    assert pushed(main, kind) == []


def test_a_twin_that_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match="pass an async function"):
        client_middleware.add(lambda payload, call_next: call_next(), aio=5)
    assert len(client_middleware) == 1


def test_rows_with_middleware_give_other_tasks_turns(monkeypatch):
    resize = declare()
    turns, during = [], []

    @client_middleware.add
    def note(payload, call_next):
        during.append(len(turns))
        return call_next()

    async def tick():
        while True:
            turns.append(None)
            await asyncio.sleep(0)

    async def main():
        other = asyncio.create_task(tick())
        monkeypatch.setattr(bulk, "TURN", 0)  # instead of 2 ms
        await resize.aperform_bulk([(number,) for number in range(20)])
        other.cancel()

    pushed(main)
    assert sorted(set(during)) == during
