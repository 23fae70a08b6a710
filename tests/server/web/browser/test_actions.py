"""What can be done in the pages, with script, which asks first, and without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from faktory.server import EmbeddedServer

from .support import Person, Shop, serving

pytestmark = pytest.mark.soak


def test_all_jobs_of_a_set(person: Person, shop: Shop, press: Callable[..., None]) -> None:
    shop.fail(30, "bad")
    shop.push(30, "later", at="2035-01-31T12:00:00Z")
    person.open("/scheduled")
    press("Add all to queue", ".everything")
    person.sees("30 jobs were moved to their queues.", ".said")
    person.open("/retries")
    press("Kill all", ".everything")
    person.sees("30 jobs were killed.", ".said")
    person.open("/morgue")
    press("Delete all", ".everything")
    person.sees("30 jobs were deleted.", ".said")
    assert shop.sizes() == {"queued": 30, "scheduled": 0, "retries": 0, "dead": 0, "working": 0}


def test_one_job_on_its_page(person: Person, shop: Shop, press: Callable[..., None]) -> None:
    bad, dead = shop.fail(1, "bad"), shop.fail(1, "dead", retry=-1)
    (later,) = shop.push(1, "later", at="2035-01-31T12:00:00Z")
    for jid, text, queued in (
        (bad[0], "Retry", 1),
        (dead[0], "Retry", 2),
        (later, "Add to queue", 3),
    ):
        person.open(f"/jobs/{jid}")
        press(text)
        person.sees("1 job was moved to its queue.", ".said")
        assert shop.sizes()["queued"] == queued
        assert "in its queue" in person.text()  # the job is followed
    person.open(f"/jobs/{later}")
    press("Delete")
    person.sees("1 job was deleted.", ".said")
    assert shop.sizes()["queued"] == 2


def test_queues(person: Person, shop: Shop, press: Callable[..., None]) -> None:
    jids = shop.push(3, queue="mail")
    person.open("/queues")
    press("Pause")
    person.sees("is paused", ".said")
    assert "paused" in person.text("main tbody")
    press("Resume")
    person.sees("goes on", ".said")
    person.follow("mail", "main")
    person.tick(jids[1])
    press("Delete", ".chosen")
    person.sees("1 job was deleted.", ".said")
    assert [job["jid"] for job in shop.server.queues["mail"]] == [jids[0], jids[2]]
    press("Clear", ".head")
    person.sees("was cleared", ".said")
    assert shop.sizes()["queued"] == 0


def test_workers(person: Person, shop: Shop, press: Callable[..., None]) -> None:
    with shop.worker("w1", "a") as first, shop.worker("w2", "b") as second:
        person.open("/busy")
        assert "2 workers, 2 jobs at work" in person.text()
        press("Quiet", "tr[data-key=w1]")
        person.sees("asked to be quiet", ".said")
        assert (first.beat(), second.beat()) == ("quiet", None)
        person.open("/busy")
        assert "quiet" in person.text("tr[data-key=w1]")
        press("Stop all", ".head")
        person.sees("asked to stop", ".said")
        assert (first.beat(), second.beat()) == ("terminate", "terminate")


def test_nothing_ticked_is_nothing_done(person: Person, shop: Shop) -> None:
    shop.push(2, queue="mail")
    shop.fail(2, "bad")
    person.set(script=False)
    for path, button in (("/queues/mail", "Delete"), ("/retries", "Delete"), ("/retries", "Retry")):
        person.open(path)
        person.press(button, ".chosen")
        person.sees("No job was ticked", ".said")
    assert shop.sizes()["queued"] == shop.sizes()["retries"] == 2


# What only a page with script has.


def test_boxes_tick_all_and_ranges(person: Person, shop: Shop) -> None:
    shop.fail(6, "bad")
    person.open("/retries")
    assert not person.button("Delete", ".chosen").is_enabled()
    boxes = person.all("tbody .tick input")
    boxes[1].click()
    person.driver.execute_script(
        "arguments[0].dispatchEvent("
        "new MouseEvent('click', {bubbles: true, cancelable: true, shiftKey: true}))",
        boxes[4],
    )
    assert [box.is_selected() for box in boxes] == [False, True, True, True, True, False]
    assert "4 ticked" in person.text(".chosen")
    head = person.one("thead .tick input")
    assert person.js("arguments[0].indeterminate", head)
    head.click()
    assert all(box.is_selected() for box in boxes)
    head.click()
    assert not any(box.is_selected() for box in boxes)
    assert not person.button("Delete", ".chosen").is_enabled()


def test_no_is_no(person: Person, shop: Shop) -> None:
    shop.fail(3, "bad")
    person.open("/retries")
    person.press("Delete all", ".everything")
    assert "Delete all 3 jobs?" in person.answer(yes=False)
    assert shop.sizes()["retries"] == 3
    person.press("Delete all", ".everything")
    person.answer(yes=True)
    person.sees("3 jobs were deleted.", ".said")


def test_a_result_is_said_once(person: Person, shop: Shop) -> None:
    shop.fail(1, "bad")
    person.open("/retries")
    person.press("Kill all", ".everything")
    person.answer(yes=True)
    person.sees("1 job was killed.", "[role=status]")
    assert "done=" not in person.js("location.href")
    person.driver.refresh()
    assert "killed" not in person.text("body")


def test_a_job_that_is_gone_is_named(person: Person, shop: Shop) -> None:
    (jid,) = shop.fail(1, "bad")
    person.set(script=False)  # the page does not notice
    person.open(f"/jobs/{jid}")
    with shop.client() as client:
        client.clear("retries")
    person.press("Retry", ".trouble")
    person.sees("not here any more", ".said")


def test_a_job_that_ends_while_its_page_is_open(person: Person, shop: Shop) -> None:
    (jid,) = shop.fail(1, "bad")
    person.open(f"/jobs/{jid}")
    person.sees("live", ".live")
    with shop.client() as client:
        client.clear("retries")
    person.sees("No such job", "main")


def test_the_address_of_a_page_may_have_the_password_in_it(driver: Any) -> None:
    with EmbeddedServer(password="geheim") as server, serving(server) as (url, _):
        person, shop = Person(driver, url.replace("://", "://any:geheim@")), Shop(server)
        person.begin()
        person.complaints()
        shop.push(queue="mail")
        person.open("/queues")
        person.press("Pause")
        person.sees("is paused", ".said")
        assert person.js("location.search") == ""
        assert not [each for each in person.complaints() if "Uncaught" in each]
        driver.get("about:blank")
