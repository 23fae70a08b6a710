from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from faktory.exceptions import FaktoryPayloadError
from faktory.worker import queues
from faktory.worker.queues import Queues


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


@pytest.mark.parametrize("name", ["a b", "", "é", "a,b", 5])
def test_a_wrong_name_of_a_queue_is_an_error(name: Any) -> None:
    with pytest.raises(FaktoryPayloadError, match="the queue is"):
        Queues(["default", name])
