"""Messages and chains of them, pushed on an event loop: as `push` does, with the same errors."""

from __future__ import annotations

import pytest

import faktory
from faktory import testing
from faktory.exceptions import FaktoryEnterpriseRequired, FaktoryPayloadError
from faktory.jobs import client_middleware
from faktory.server import EmbeddedServer

from ..jobs.support import new_process
from .support import run_in


@pytest.fixture(autouse=True)
def own_process():
    with new_process():
        yield


def declare():
    @faktory.job(queue="images", retry=3)
    def resize(image: object, size: str = "thumb"): ...

    return resize


def without_ids(job):
    """Return a pushed job, with those of its chain, without what differs each time."""
    kept = {name: job[name] for name in ("jobtype", "queue", "args", "retry")}
    custom = dict(job.get("custom") or {})
    following = custom.pop("faktory_chain", [])
    return kept, custom, [without_ids(each) for each in following]


def test_a_chain_is_pushed_as_the_blocking_way_pushes_it(kind):
    resize = declare()

    @client_middleware.add
    def number(payload, call_next):
        payload.setdefault("custom", {})["number"] = payload["args"][0]
        return call_next()

    chain = faktory.chain(
        resize.message(1),
        resize.set(queue="low", custom={"a": 1}).message(2, size="full"),
        resize.set(jid="order-0012").message(3),
    )

    async def main():
        jid = await chain.apush()
        assert await chain.apush() != jid
        return jid

    with testing.fake() as server:
        jid = run_in(kind, main())
        chain.push()
        first, second, blocking = server.jobs
        assert first["jid"] == jid
        assert first["custom"]["faktory_chain"][1]["jid"] == "order-0012"
        assert without_ids(first) == without_ids(second) == without_ids(blocking)
        assert [each[1]["number"] for each in without_ids(first)[2]] == [2, 3]
        assert server.drain() == 9


@pytest.mark.parametrize("stopped", [1, 2, 3])
def test_a_middleware_that_stops_one_job_stops_the_chain(kind, stopped):
    resize = declare()

    def stop(payload, call_next):
        raise AssertionError("its twin runs")

    async def stop_later(payload, call_next):
        return "stopped" if payload["args"] == [stopped] else await call_next()

    client_middleware.add(stop, aio=stop_later)
    chain = faktory.chain(*(resize.message(number) for number in (1, 2, 3)))
    with testing.fake() as server:
        assert run_in(kind, chain.apush()) == "stopped"
        assert server.jobs == []


def test_a_middleware_that_drops_what_call_next_gives_is_an_error(kind):
    resize = declare()

    @client_middleware.add
    def count(payload, call_next):
        call_next()

    with testing.fake() as server:
        with pytest.raises(RuntimeError, match=r"count has called call_next\(\)"):
            run_in(kind, faktory.chain(resize.message(1), resize.message(2)).apush())
        assert server.jobs == []


def test_the_errors_are_those_of_the_blocking_way(kind):
    resize = declare()
    wrong = faktory.chain(resize.message(1), resize.message([object()]))
    pool = faktory.Pool("tcp://127.0.0.1:1")
    elsewhere = faktory.chain(resize.set(pool=pool).message(1), resize.message(2))
    with testing.fake() as server:
        with pytest.raises(FaktoryPayloadError) as blocking:
            wrong.push()
        with pytest.raises(FaktoryPayloadError) as caught:
            run_in(kind, wrong.apush())
        assert str(caught.value) == str(blocking.value)
        assert str(caught.value).startswith("job 2 of the chain: args[0][0] is an object")
        with pytest.raises(TypeError, match="resize has a pool of its own, whose clients block"):
            run_in(kind, elsewhere.apush())
        assert server.jobs == []
    pool.close()


@pytest.mark.parametrize("place", [0, 1])
def test_a_server_that_would_ignore_options_of_a_job_is_not_given_the_chain(kind, place):
    resize = declare()
    messages = [resize.message(1), resize.message(2)]
    messages[place] = resize.set(unique_for=60).message(3)
    with EmbeddedServer() as server:
        faktory.configure(url=server.url)
        with pytest.raises(FaktoryEnterpriseRequired, match="unique_for"):
            run_in(kind, faktory.chain(*messages).apush())
        assert [verb for verb, _ in server.commands if verb.startswith("PUSH")] == []


def test_inline_mode_runs_the_whole_chain_on_the_loop(kind):
    ran = []

    @faktory.job
    async def step(number: int) -> None:
        ran.append(number)

    @faktory.job
    def plain(number: int) -> None:
        ran.append(number)

    async def main():
        await faktory.chain(step.message(1), plain.message(2), step.message(3)).apush()
        assert ran == [1, 2, 3]

    with testing.inline():
        run_in(kind, main())
