"""The pages in a browser, the shortest: the other files of this folder are long tests."""

from __future__ import annotations

from collections.abc import Callable

from ....support import wait_until
from .support import Person, Shop


def test_the_cause_of_a_failure_is_two_clicks_away(person: Person, shop: Shop) -> None:
    shop.fail(1, "bad")
    person.open("/")
    assert "Connection unexpectedly closed" in person.text()
    person.follow("SendReceipt", "main")
    first = person.text().splitlines()[:8]
    assert "SMTPServerDisconnected" in first
    assert "Connection unexpectedly closed" in first
    assert [each.text for each in person.all(".trouble button")] == ["Retry", "Kill", "Delete"]
    assert "server.quit()" in person.text()  # the backtrace


def test_ticked_jobs(person: Person, shop: Shop, press: Callable[..., None]) -> None:
    retries = shop.fail(5, "bad")
    person.open("/retries")
    person.tick(retries[1])
    person.tick(retries[2])
    press("Retry", ".chosen")
    person.sees("2 jobs were moved to their queues.", ".said")
    assert shop.sizes()["queued"] == 2
    person.tick(retries[0])
    press("Kill", ".chosen")
    person.sees("1 job was killed.", ".said")
    assert shop.sizes()["dead"] == 1
    person.tick(retries[3])
    press("Delete", ".chosen")
    person.sees("1 job was deleted.", ".said")
    assert shop.sizes() == {"queued": 2, "scheduled": 0, "retries": 1, "dead": 1, "working": 0}


def test_a_phone_shows_all_without_scrolling_sideways(person: Person, shop: Shop) -> None:
    shop.fill()
    person.set(375)
    for path in ("/", "/queues", "/queues/images", "/busy", "/retries", "/jobs/bad-000000"):
        person.open(path)
        assert person.too_wide() == [], path


def test_an_update_keeps_ticked_boxes_and_the_focus(person: Person, shop: Shop) -> None:
    first = shop.fail(4, "bad")
    person.open("/retries")
    person.sees("live", ".live")
    person.tick(first[0])
    person.tick(first[2])
    person.driver.execute_script("window.box = document.activeElement")
    shop.fail(3, "new")
    person.sees("new-000002", "main")
    with shop.client() as client:
        client.discard("retries", jids=[first[1]])
    wait_until(lambda: not person.holds(first[1], "main"))
    ticked = [box.get_attribute("value").partition("|")[2] for box in person.all("tbody :checked")]
    assert sorted(ticked) == [first[0], first[2]]
    assert person.js("document.activeElement === window.box && window.box.isConnected")
    assert person.button("Delete", ".chosen").is_enabled()
    with shop.client() as client:
        client.discard("retries", jids=[first[2]])  # the row that has the focus
    wait_until(lambda: not person.holds(first[2], "main"))
    assert person.js("document.activeElement.id") == "main"
    person.sees("1 ticked", ".chosen")


def test_a_live_update_with_hostile_texts_runs_nothing(person: Person, shop: Shop) -> None:
    person.open("/retries")
    person.sees("live", ".live")
    shop.hostile()
    person.sees("onerror", "main")
    assert person.is_whole()
