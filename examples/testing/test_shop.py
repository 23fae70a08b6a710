"""The jobs of shop.py, tested in the four ways that there are: pytest examples/testing"""

import pytest
import shop

from faktory.testing import assert_enqueued, assert_not_enqueued


@pytest.fixture(autouse=True)
def _no_mails():
    shop.sent.clear()


# A plain call: what the function does, and nothing else.


def test_a_review_is_asked_for():
    shop.review(7)
    assert shop.sent == ["how was order 7?"]


# Inline: what is pushed is run at once, and what is pushed by that.


def test_an_order_is_confirmed_and_reviewed(faktory_inline):
    shop.Confirm.perform_async(7)
    assert shop.sent == ["order 7 is confirmed", "how was order 7?"]


def test_an_order_that_is_not_there_is_an_error_at_once(faktory_inline):
    with pytest.raises(ValueError, match="no order 0"):
        shop.Confirm.perform_async(0)


# Fake: what was pushed, and then, when the test says so, run.


def test_a_confirmation_is_enqueued_for_the_mailer(faktory_fake):
    shop.Confirm.perform_async(7)
    assert_enqueued(shop.Confirm, args=(7,), queue="mail", count=1)
    assert_not_enqueued(shop.review)

    shop.Confirm.drain()
    assert shop.sent == ["order 7 is confirmed"]
    assert_enqueued(shop.review, args=(7,))


# The real protocol: an embedded server, a worker, and a clock that the test moves.


def test_the_review_comes_a_day_later(faktory_worker, faktory_clock):
    shop.Confirm.perform_async(7)
    faktory_worker.drain()
    assert shop.sent == ["order 7 is confirmed"]

    faktory_clock.travel(86_400)
    faktory_worker.drain()
    assert shop.sent == ["order 7 is confirmed", "how was order 7?"]


def test_an_order_that_is_not_there_is_tried_three_times(
    faktory_server, faktory_worker, faktory_clock
):
    jid = shop.Confirm.perform_async(0)
    for _ in range(3):
        faktory_worker.drain()
        faktory_clock.travel(86_400)
    assert len(faktory_worker.errors) == 3
    assert [job["jid"] for job in faktory_server.dead] == [jid]
