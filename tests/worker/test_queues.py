from __future__ import annotations

import re
import threading
from collections import Counter
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

import faktory
from faktory.exceptions import FaktoryPayloadError
from faktory.worker import queues
from faktory.worker.queues import Limits, Queues


def test_a_list_of_queues_keeps_its_order() -> None:
    served = Queues(["critical", "default", "low"])
    assert {tuple(served.order()) for _ in range(50)} == {("critical", "default", "low")}
    assert str(served) == "critical, default, low"


def test_a_queue_that_is_named_twice_is_fetched_once() -> None:
    assert Queues(["a", "b", "a"]).order() == ["a", "b"]


def test_with_weights_every_queue_is_in_each_order() -> None:
    served = Queues({"critical": 3, "default": 1})
    assert {tuple(sorted(served.order())) for _ in range(50)} == {("critical", "default")}
    assert str(served) == "critical (weight 3), default (weight 1)"


def test_a_weight_is_how_often_a_queue_comes_first() -> None:
    served = Queues({"three": 3, "one": 1})
    first = Counter(served.order()[0] for _ in range(4000))
    # 3000 are expected; 30 is the standard deviation, so this fails once in 10^11 runs.
    assert 2800 < first["three"] < 3200


def test_the_highest_draw_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = iter([0.5, 0.6])  # 0.5**(1/3) is 0.79
    monkeypatch.setattr(queues, "random", lambda: next(draws))
    assert Queues({"b": 3, "a": 1}).order() == ["b", "a"]


@pytest.mark.parametrize("weight", [0, -1, 1.5, True, "2", None])
def test_a_wrong_weight_is_an_error_with_the_name_of_the_queue(weight: Any) -> None:
    with pytest.raises(ValueError, match="the weight of queue 'low' is"):
        Queues({"default": 1, "low": weight})


@pytest.mark.parametrize("none", [[], {}, ()])
def test_no_queues_are_an_error(none: Any) -> None:
    with pytest.raises(ValueError, match="queues is empty: a worker needs one queue or more"):
        Queues(none)


def test_a_text_is_not_a_list_of_queues() -> None:
    with pytest.raises(ValueError, match=r"pass a list, \['default'\]"):
        Queues("default")


@pytest.mark.parametrize("given", [None, 5, True])
def test_what_is_not_a_list_of_queues_is_an_error_with_the_remedy(given: Any) -> None:
    with pytest.raises(ValueError, match=rf"^queues is {given}: pass a list of names, \['default'"):
        Queues(given)


@pytest.mark.parametrize("given", [["*"], {"*": 1}, ["a", {"*": 2}]])
def test_the_star_of_the_command_is_an_error_with_the_remedy(given: Any) -> None:
    with pytest.raises(ValueError, match=r"'\*', which only the command .*: name the queues here"):
        Queues(given)


@pytest.mark.parametrize(
    ("share", "remedy"),
    [
        ({"limit": 2}, "faktory.Queue(limit=2)."),
        ({"limit": 2, "weight": 3}, "faktory.Queue(limit=2, weight=3)."),
        ({"most": 2}, "faktory.Queue(weight=1, limit=2)."),
        ({}, "faktory.Queue(weight=1, limit=2)."),
    ],
)
def test_a_mapping_in_the_place_of_a_queue_has_its_remedy(share: Any, remedy: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"'api' is {share}: use {remedy}") + "$"):
        Queues({"api": share})


@pytest.mark.parametrize("name", ["a b", "", "é", "a,b", 5])
def test_a_wrong_name_of_a_queue_is_an_error(name: Any) -> None:
    with pytest.raises(FaktoryPayloadError, match="the queue is"):
        Queues(["default", name])


@pytest.mark.parametrize("weight", [10**6 + 1, 10**400])
def test_a_weight_of_more_than_a_million_is_an_error(weight: int) -> None:
    with pytest.raises(ValueError, match=r"use 1 to 1,000,000\.$"):
        Queues({"low": weight})


def test_a_queue_has_a_weight_and_a_limit_and_is_frozen() -> None:
    queue = faktory.Queue(weight=3, limit=2)
    assert (queue.weight, queue.limit) == (3, 2)
    assert faktory.Queue() == faktory.Queue(1, None) == faktory.Queue(weight=1)
    assert hash(queue) == hash(faktory.Queue(3, 2))
    with pytest.raises(FrozenInstanceError):
        queue.limit = 3  # type: ignore[misc]


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "2"])
def test_a_wrong_limit_is_an_error_with_the_remedy(limit: Any) -> None:
    with pytest.raises(ValueError, match=r"the limit of a queue is .*: use 1 or more, or None"):
        faktory.Queue(limit=limit)


@pytest.mark.parametrize("weight", [0, -1, 1.5, True, "2", None])
def test_a_wrong_weight_of_a_queue_is_an_error(weight: Any) -> None:
    with pytest.raises(ValueError, match=r"the weight of a queue is .*: use 1 or more"):
        faktory.Queue(weight=weight)


def test_numbers_and_queues_may_stand_side_by_side() -> None:
    served = Queues({"api": faktory.Queue(weight=2, limit=4), "low": 1, "mail": faktory.Queue()})
    assert str(served) == "api (weight 2, limit 4), low (weight 1), mail (weight 1)"
    assert served.names == ["api", "low", "mail"]
    assert served.limits == {"api": 4}


def test_equal_weights_are_named_once() -> None:
    assert str(Queues({"a": 2, "b": faktory.Queue(2, limit=1)})) == (
        "a, b (limit 1), with equal weights"
    )
    assert str(Queues({"a": 2})) == "a"


def test_a_mapping_in_a_list_has_its_place_there() -> None:
    served = Queues(["first", {"a": 1, "b": 1}, {"api": faktory.Queue(limit=2)}, "last"])
    assert str(served) == "first; then a, b, with equal weights; then api (limit 2); then last"
    assert {tuple(served.order()) for _ in range(200)} == {
        ("first", "a", "b", "api", "last"),
        ("first", "b", "a", "api", "last"),
    }


def test_a_strict_order_can_have_limits() -> None:
    served = Queues(["a", {"b": faktory.Queue(limit=2)}, "c", "a"])
    assert str(served) == "a, b (limit 2), c"
    assert served.order() is served.order()
    assert served.order() == ["a", "b", "c"]


@pytest.mark.parametrize("queues", [["a", {"a": 2}], [{"a": 2, "b": 1}, {"b": 1}]])
def test_a_queue_with_two_settings_is_an_error(queues: Any) -> None:
    with pytest.raises(ValueError, match=r"the queue .[ab]. is given twice: give it once"):
        Queues(queues)


@pytest.mark.parametrize("queues", [[{}], [{}, {}]])
def test_empty_mappings_have_no_queues(queues: Any) -> None:
    with pytest.raises(ValueError, match="queues is empty"):
        Queues(queues)


@pytest.mark.parametrize("share", [faktory.Queue, {"weight": 1}, "limit=2"])
def test_a_share_that_is_neither_a_number_nor_a_queue_is_an_error(share: Any) -> None:
    with pytest.raises(ValueError, match="the weight of queue 'a' is"):
        Queues({"a": share})


def test_two_hundred_queues_are_in_each_order_once() -> None:
    names = [f"queue{number}" for number in range(200)]
    assert Queues(names).order() == names
    by_weight = Queues({name: number + 1 for number, name in enumerate(names)})
    assert sorted(by_weight.order()) == sorted(names)


# Limits


def test_a_thread_has_a_permit_of_each_queue_of_its_fetch_until_it_is_answered() -> None:
    limits = Limits({"api": 1, "mail": 2})
    assert limits.acquire("first", ["api", "mail", "other"]) == ["api", "mail", "other"]
    assert limits.acquire("second", ["api", "mail", "other"]) == ["mail", "other"]
    assert limits.acquire("third", ["api", "mail", "other"]) == ["other"]
    limits.release("first", keep="mail")
    assert limits.acquire("third", ["api", "mail", "other"]) == ["api", "other"]
    limits.release("second", keep="other")
    limits.release("third")
    limits.release("third")
    assert limits.acquire("fourth", ["mail", "api"]) == ["mail", "api"]
    assert limits.acquire("fifth", ["mail", "api"]) == []


def test_a_thread_that_fetches_again_keeps_its_permit() -> None:
    limits = Limits({"api": 1})
    for _ in range(3):
        assert limits.acquire("first", ["api"]) == ["api"]
        assert limits.acquire("second", ["api"]) == []
        limits.release("first", keep="api")


def test_a_name_that_stands_twice_takes_one_permit() -> None:
    limits = Limits({"api": 2})
    assert limits.acquire("first", ["api", "api"]) == ["api", "api"]
    assert limits.acquire("second", ["api"]) == ["api"]


def test_a_job_whose_queue_is_not_a_text_frees_all_permits() -> None:
    limits = Limits({"api": 1})
    limits.acquire("first", ["api"])
    limits.release("first", keep=["api"])
    assert limits.acquire("second", ["api"]) == ["api"]


def waiting(limits: Limits, seconds: float = 20) -> threading.Thread:
    thread = threading.Thread(target=limits.wait, args=(["api", "mail"], seconds))
    thread.start()
    return thread


def ended(thread: threading.Thread) -> bool:
    thread.join(10)
    return not thread.is_alive()


def test_a_permit_that_is_released_ends_a_wait() -> None:
    limits = Limits({"api": 1, "mail": 1})
    limits.acquire("first", ["api", "mail"])
    thread = waiting(limits)
    limits.release("first", keep="api")
    assert ended(thread)
    assert ended(waiting(limits))  # there is one already


def test_a_permit_that_an_owner_lets_go_as_it_acquires_others_ends_a_wait() -> None:
    limits = Limits({"api": 1, "mail": 1})
    limits.acquire("first", ["api", "mail"])
    thread = waiting(limits)
    limits.acquire("first", ["mail"])
    assert ended(thread)


def test_nobody_waits_after_close_or_for_longer_than_given() -> None:
    limits = Limits({"api": 1, "mail": 1})
    limits.acquire("first", ["api", "mail"])
    assert ended(waiting(limits, 0.01))
    thread = waiting(limits)
    limits.close()
    assert ended(thread)
    assert ended(waiting(limits))


def test_threads_never_hold_more_permits_than_there_are() -> None:
    limits = Limits({"a": 2, "b": 3})
    inside = Counter[str]()
    lock = threading.Lock()
    wrong: list[str] = []

    def work(number: int) -> None:
        for turn in range(200):
            names = limits.acquire(number, ["a", "b"])
            with lock:
                inside.update(names)
                wrong.extend(name for name, most in (("a", 2), ("b", 3)) if inside[name] > most)
            with lock:
                inside.subtract(names)
            limits.release(number, keep=("a", "b", None)[turn % 3])
        limits.release(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    assert all(map(ended, threads))
    assert wrong == []
    assert limits._free == {"a": 2, "b": 3}
