"""Messages: jobs with arguments and options, to be pushed later."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import faktory
from faktory.exceptions import FaktoryPayloadError
from faktory.jobs import JobChain

from .support import FakeServer


@faktory.job(queue="images", retry=3)
def crop(image: object, size: str = "thumb") -> None: ...


class Crop(faktory.Job):
    faktory_options = {"queue": "images", "retry": 3}

    def perform(self, image: object, size: str = "thumb") -> None: ...


described = faktory.external("CropImage", lambda image, size="thumb": None, queue="images")


@pytest.mark.parametrize("job", [crop, Crop, described], ids=["function", "class", "external"])
def test_a_message_has_type_arguments_and_options(server: FakeServer, job: Any) -> None:
    message = job.set(queue="low", custom={"a": 1}).message(1, size="full")
    assert isinstance(message, faktory.Message)
    assert message.jobtype in ("crop", "Crop", "CropImage")
    assert message.args == (1, "full")
    assert message.options["queue"] == "low"
    assert message.options["custom"] == {"a": 1}
    made = message.to_dict()
    jid = message.push()
    assert server.jobs == [{**made, "jid": jid}]
    assert made["jid"] != jid
    assert (made["args"], made["queue"], made["custom"]) == ([1, "full"], "low", {"a": 1})
    assert isinstance(made["retry"], int)


def test_a_message_checks_its_arguments_where_it_is_made(server: FakeServer) -> None:
    with pytest.raises(TypeError, match=r"crop: .*'colour'"):
        crop.message(1, colour="red")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"Crop: .*'image'"):
        Crop.message()  # type: ignore[call-arg]
    message = crop.message(timedelta(1))
    with pytest.raises(FaktoryPayloadError, match=r"args\[0\] is a timedelta"):
        message.push()
    assert server.jobs == []


def test_a_message_cannot_be_changed(server: FakeServer) -> None:
    image = {"sizes": [1]}
    message = crop.set(custom={"a": [1]}).message(image)
    image["sizes"].append(2)
    message.to_dict()["args"][0]["sizes"].append(3)
    message.to_dict()["custom"]["a"].append(2)
    with pytest.raises(AttributeError):
        message.args = ()  # type: ignore[misc]
    with pytest.raises(AttributeError):
        message.jobtype = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        message.options["queue"] = "low"  # type: ignore[index]
    message.push()
    assert server.jobs[0]["args"] == [{"sizes": [1]}]
    assert server.jobs[0]["custom"] == {"a": [1]}


def test_messages_are_equal_if_their_jobs_would_be() -> None:
    message = crop.message(1, "full")
    assert message == crop.message(image=1, size="full") == crop.set().message(1, "full")
    assert len({message, crop.message(1, "full"), crop.message([1])}) == 2
    assert hash(crop.message({"a": 1})) == hash(crop.message({"a": 1}))
    pool = faktory.Pool()
    for other in (
        crop.message(1),
        crop.message(1, "thumb"),
        crop.set(queue="low").message(1, "full"),
        crop.set(jid="12345678").message(1, "full"),
        crop.set(pool=pool).message(1, "full"),
        Crop.message(1, "full"),
        (1, "full"),
    ):
        assert message != other
    pool.close()


def test_a_message_shows_what_it_is() -> None:
    message = crop.set(debounce=30).message({"a": 1}, "x" * 1000)
    assert repr(crop.message(1, "full")) == (
        "<faktory.Message crop(1, 'full') queue='images' retry=3>"
    )
    assert "debounce=30" in repr(message)
    assert len(repr(message)) < 300


def test_a_message_can_be_pickled_unless_it_has_a_pool(server: FakeServer) -> None:
    message = crop.message(1, "full")
    assert pickle.loads(pickle.dumps(message)) == message
    assert pickle.loads(pickle.dumps(message)).push() == server.jobs[0]["jid"]
    pool = faktory.Pool()
    with pytest.raises(TypeError, match="pool of its own"):
        pickle.dumps(crop.set(pool=pool).message(1))
    pool.close()


def test_a_message_goes_through_the_middleware_and_joins_the_batch(server: FakeServer) -> None:
    message = crop.message(1)

    @faktory.client_middleware.add
    def tenant(payload: dict[str, Any], call_next: Callable[[], object]) -> object:
        payload["custom"]["tenant"] = 7
        return call_next()

    with faktory.Batch(success=Crop.message("done"), complete="Cleanup").jobs():
        jid = message.push()
    assert server.jobs[0] == {
        **message.to_dict(),
        "jid": jid,
        "custom": {"bid": "b-1", "tenant": 7},
    }
    new = next(text for text in server.other_commands if text.startswith("BATCH NEW"))
    assert '"jobtype":"Crop","queue":"images","args":["done"],"retry":3' in new


def test_a_chain_can_be_a_callback(server: FakeServer) -> None:
    with faktory.Batch(success=faktory.chain(crop.message(1), Crop.message(2))).jobs():
        pass
    new = next(text for text in server.other_commands if text.startswith("BATCH NEW"))
    assert '"custom":{"faktory_chain":[{' in new


def test_a_callback_expires_from_its_own_push_on(server: FakeServer) -> None:
    with faktory.Batch(success=crop.set(expires_in=60).message(1)).jobs():
        pass
    new = next(text for text in server.other_commands if text.startswith("BATCH NEW"))
    assert '"custom":{"expires_in":60}' in new


def test_a_callback_is_neither_debounced_nor_of_another_pool(server: FakeServer) -> None:
    debounced = crop.set(debounce=30)
    for callback in (debounced, debounced.message(1)):
        for setting in ("success", "complete"):
            with pytest.raises(FaktoryPayloadError, match=rf"{setting}, crop, is debounced.*=None"):
                faktory.Batch(**{setting: callback})  # type: ignore[arg-type]
    pool = faktory.Pool("tcp://other:2")
    elsewhere = crop.set(pool=pool)
    for other in (
        faktory.external("crop").set(pool=pool),
        elsewhere.message(1),
        faktory.chain(elsewhere.message(1), crop.message(2)),
    ):
        with pytest.raises(ValueError, match=r"complete, crop, has a pool of its own.*pool=\.\.\."):
            faktory.Batch(complete=other)
        batch = faktory.Batch(pool=pool)
        batch.complete = other
        with batch.jobs():
            pass
    assert server.opened == ["other:2"]
    pool.close()


def test_what_set_says_of_one_push_stays_in_the_message(server: FakeServer) -> None:
    message = crop.set(jid="order-0012", at="2100-01-01T00:00:00Z").message(1)
    assert dict(message.options) == {
        "queue": "images",
        "retry": 3,
        "jid": "order-0012",
        "at": "2100-01-01T00:00:00Z",
    }
    assert message.push() == "order-0012"
    assert server.jobs[0]["at"] == "2100-01-01T00:00:00Z"
    assert crop.set(debounce=30).message(1).options["debounce"] == 30


def test_default_options_count_when_the_message_is_pushed(server: FakeServer) -> None:
    message = faktory.external("Convert").message(1)
    faktory.default_job_options = {"retry": 7}
    message.push()
    assert server.jobs[0]["retry"] == 7


# Chains


def chained(job: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = job["custom"]["faktory_chain"]
    return found


def test_a_chain_pushes_the_first_job_with_the_others_complete_inside(server: FakeServer) -> None:
    chain = faktory.chain(
        crop.set(custom={"a": 1}).message(1),
        Crop.set(jid="order-0012", custom={"b": 2}).message(2, size="full"),
        described.message(3),
    )
    jid = chain.push()
    (job,) = server.jobs
    second, third = chained(job)
    assert job == {
        "jid": jid,
        "jobtype": "crop",
        "args": [1],
        "queue": "images",
        "retry": 3,
        "custom": {"a": 1, "faktory_chain": [second, third]},
    }
    assert second == {
        "jid": "order-0012",
        "jobtype": "Crop",
        "args": [2, "full"],
        "queue": "images",
        "retry": 3,
        "custom": {"b": 2},
    }
    assert third == {
        "jid": third["jid"],
        "jobtype": "CropImage",
        "args": [3],
        "queue": "images",
        "retry": 25,
    }
    assert len({jid, second["jid"], third["jid"]}) == 3
    assert chain.push() != jid


def test_a_chain_of_one_is_a_plain_job(server: FakeServer) -> None:
    jid = faktory.chain(crop.message(1)).push()
    assert server.jobs == [{**crop.message(1).to_dict(), "jid": jid}]


def test_a_chain_in_a_chain_is_a_part_of_it(server: FakeServer) -> None:
    one, two, three = (crop.message(number) for number in (1, 2, 3))
    inner = faktory.chain(one, two)
    chain = faktory.chain(inner, three)
    assert isinstance(chain, JobChain)
    assert chain == faktory.chain(one, faktory.chain(two, three)) == faktory.chain(one, two, three)
    assert chain != faktory.chain(one, three, two)
    assert chain.messages == (one, two, three)
    assert inner.messages == (one, two)
    assert repr(chain) == "<faktory chain: crop, crop, crop>"
    chain.push()
    assert [job["args"] for job in chained(server.jobs[0])] == [[2], [3]]


def test_the_middleware_runs_for_each_job_when_the_chain_is_pushed(server: FakeServer) -> None:
    seen: list[object] = []

    @faktory.client_middleware.add
    def number(payload: dict[str, Any], call_next: Callable[[], object]) -> object:
        payload.setdefault("custom", {})["number"] = payload["args"][0]
        seen.append(call_next())
        return seen[-1]

    with faktory.Batch(success="Done").jobs():
        jid = faktory.chain(*(crop.message(number) for number in (1, 2, 3))).push()
    (job,) = server.jobs
    assert job["custom"].pop("number") == 1
    assert [each["custom"] for each in chained(job)] == [
        {"bid": "b-1", "number": 2},
        {"bid": "b-1", "number": 3},
    ]
    assert sorted(map(str, seen)) == sorted([jid, *(each["jid"] for each in chained(job))])


@pytest.mark.parametrize("stopped", [1, 2, 3])
def test_a_middleware_that_stops_one_job_stops_the_chain(server: FakeServer, stopped: int) -> None:
    @faktory.client_middleware.add
    def stop(payload: dict[str, Any], call_next: Callable[[], object]) -> object:
        return "stopped" if payload["args"] == [stopped] else call_next()

    chain = faktory.chain(*(crop.message(number) for number in (1, 2, 3)))
    assert chain.push() == "stopped"
    with faktory.Producer() as producer:
        assert producer.push(chain).result() == "stopped"
    assert server.jobs == []


def test_a_wrong_job_of_a_chain_is_named_and_nothing_is_pushed(server: FakeServer) -> None:
    chain = faktory.chain(crop.message(1), crop.message(2), Crop.message([timedelta(1)]))
    with pytest.raises(FaktoryPayloadError, match=r"^job 3 of the chain: args\[0\]\[0\] is a time"):
        chain.push()
    assert server.jobs == []


def test_enterprise_options_of_a_later_job_are_checked_with_the_push(server: FakeServer) -> None:
    server.description = "Faktory"
    chain = faktory.chain(crop.message(1), crop.set(unique_for=60).message(2))
    with pytest.raises(faktory.FaktoryEnterpriseRequired, match="unique_for"):
        chain.push()
    assert server.jobs == []


def test_the_pool_of_a_chain_is_that_of_its_first_job(server: FakeServer) -> None:
    pool = faktory.Pool("tcp://other:2")
    first = crop.set(pool=pool).message(1)
    faktory.chain(first, crop.message(2)).push()
    faktory.chain(first, first).push()
    assert server.opened == ["other:2"]
    with pytest.raises(ValueError, match="job 2 of the chain, crop, has a pool of its own"):
        faktory.chain(crop.message(1), first)
    pool.close()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: faktory.chain(), "the chain is empty: pass one message"),
        (lambda: faktory.chain(crop), r"has messages, not .*resize\.message\(1\)"),
        (lambda: faktory.chain(crop.message(1), {"jobtype": "x"}), "has messages, not"),
        (
            lambda: faktory.chain(
                crop.set(jid="order-0012").message(1),
                faktory.chain(crop.message(2), Crop.set(jid="order-0012").message(3)),
            ),
            r"job 3 of the chain, Crop, has the jid of job 1, 'order-0012'.*a jid of its own",
        ),
        (
            lambda: faktory.chain(crop.message(1), crop.set(debounce=9).message(2)),
            r"job 2 of the chain, crop, is debounced.*set\(debounce=None\)",
        ),
    ],
)
def test_what_cannot_be_a_chain_is_refused_with_the_remedy(
    make: Callable[[], object], error: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        make()
