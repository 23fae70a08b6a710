from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from faktory.exceptions import FaktoryPayloadError
from faktory.worker import queues
from faktory.worker.queues import Queues


def test_a_list_is_served_in_its_order() -> None:
    served = Queues(["critical", "default", "low"])
    assert {tuple(served.order()) for _ in range(50)} == {("critical", "default", "low")}
    assert str(served) == "critical, default, low"


def test_a_queue_that_is_named_twice_is_asked_once() -> None:
    assert Queues(["a", "b", "a"]).order() == ["a", "b"]


def test_with_weights_every_queue_is_asked_each_time() -> None:
    served = Queues({"critical": 3, "default": 1})
    assert {tuple(sorted(served.order())) for _ in range(50)} == {("critical", "default")}
    assert str(served) == "critical (weight 3), default (weight 1)"


def test_a_weight_says_how_often_a_queue_is_asked_first() -> None:
    served = Queues({"three": 3, "one": 1})
    first = Counter(served.order()[0] for _ in range(4000))
    # 3000 are expected; 30 is the standard deviation, so this fails once in 10^11 runs.
    assert 2800 < first["three"] < 3200


def test_the_highest_draw_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = iter([0.5, 0.6])  # 0.5**(1/3) is 0.79
    monkeypatch.setattr(queues, "random", lambda: next(draws))
    assert Queues({"b": 3, "a": 1}).order() == ["b", "a"]


@pytest.mark.parametrize("weight", [0, -1, 1.5, True, "2", None])
def test_a_weight_that_is_none_is_refused_by_name(weight: Any) -> None:
    with pytest.raises(ValueError, match="the weight of queue 'low' is"):
        Queues({"default": 1, "low": weight})


@pytest.mark.parametrize("none", [[], {}, ()])
def test_a_worker_without_a_queue_is_refused(none: Any) -> None:
    with pytest.raises(ValueError, match="one queue or more"):
        Queues(none)


def test_a_text_is_not_taken_for_a_list_of_letters() -> None:
    with pytest.raises(ValueError, match=r"pass a list, \['default'\]"):
        Queues("default")


@pytest.mark.parametrize("name", ["a b", "", "é", "a,b", 5])
def test_a_name_that_no_queue_can_have_is_refused(name: Any) -> None:
    with pytest.raises(FaktoryPayloadError, match="the queue is"):
        Queues(["default", name])
