"""Pages that change by themselves, and what they leave as it is."""

from __future__ import annotations

from typing import Any

import pytest

from ....support import wait_until
from .support import Person, Shop

pytestmark = pytest.mark.soak


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/", "5\nenqueued"),
        ("/queues", "images"),
        ("/queues/mail", "queued-000002"),
        ("/busy", "worker-1"),
        ("/retries", "bad-000001"),
        ("/scheduled", "later-000001"),
        ("/morgue", "dead-000001"),
    ],
)
def test_a_page_changes_by_itself(person: Person, shop: Shop, path: str, text: str) -> None:
    shop.push(1, "first", queue="first")
    shop.server._call(lambda state: state.store.pause("mail"))  # which makes it
    person.open(path)
    person.sees("live", ".live")
    assert text not in person.text()
    person.driver.execute_script("document.body.dataset.same = 1")
    with shop.worker():
        shop.fail(2, "bad")
        shop.fail(2, "dead", retry=-1)
        shop.push(2, "later", at="2035-01-31T12:00:00Z")
        shop.push(3, "queued", queue="mail")
        shop.push(1, "image", queue="images")
        person.sees(text, "main")
        person.sees("2", ".pages [data-count=retries]")
    assert person.js("document.body.dataset.same") == "1"


def test_an_update_keeps_typed_text_selection_scroll_and_what_is_open(
    person: Person, shop: Shop
) -> None:
    (jid,) = shop.fail(1, "bad", args=["x" * 50_000])
    person.open(f"/jobs/{jid}")
    person.sees("live", ".live")
    person.one("summary").click()  # closes the backtrace
    person.driver.execute_script(
        "document.querySelector('pre.long').scrollTop = 100; scrollTo(0, 50);"
        "getSelection().selectAllChildren(document.querySelector('pre.long'))"
    )
    search = person.one("#q")
    search.send_keys("half a wo")
    before = person.text(".head")
    with shop.client() as client:
        client.requeue("retries", jids=[jid])
    wait_until(lambda: person.text(".head") != before)
    assert search.get_attribute("value") == "half a wo"
    assert person.focused_id() == "q"
    assert person.js("document.querySelector('details').open") is False


def test_rows_that_stay_are_the_same_elements(person: Person, shop: Shop) -> None:
    shop.push(20, queue="mail")
    person.open("/queues/mail")
    person.sees("live", ".live")
    person.driver.execute_script("window.rows = [...document.querySelectorAll('tbody tr')]")
    with shop.client() as client:
        for _ in range(5):
            client.fetch("mail")
        shop.push(3, "more", queue="mail")
        person.sees("more-000002", "main")
    same = person.js("[...document.querySelectorAll('tbody tr')].map(row => rows.includes(row))")
    assert same == [True] * 15 + [False] * 3
    texts = person.js("[...document.querySelectorAll('tbody .job .soft')].map(e => e.textContent)")
    assert texts == [f"job-{n:06}" for n in range(5, 20)] + [f"more-{n:06}" for n in range(3)]


def test_a_jid_that_a_queue_has_twice(person: Person, shop: Shop) -> None:
    for _ in range(2):
        shop.push(2, queue="mail")
    person.open("/queues/mail")
    person.sees("live", ".live")
    for jid in ("more", "last"):
        shop.push(1, jid, queue="mail")
        person.sees(f"{jid}-000000", "main")
    texts = person.js("[...document.querySelectorAll('tbody .job .soft')].map(e => e.textContent)")
    jobs = [f"job-{n:06}" for n in (0, 1, 0, 1)]
    assert texts == [*jobs, "more-000000", "last-000000"]


def test_a_hidden_page_has_no_stream(person: Person, shop: Shop, pages: tuple[str, Any]) -> None:
    live = pages[1]
    person.open("/queues")
    person.sees("live", ".live")
    assert live.streams == 1
    first = person.driver.current_window_handle
    person.driver.switch_to.new_window("tab")
    wait_until(lambda: live.streams == 0)
    shop.push(1, queue="mail")
    person.driver.close()
    person.driver.switch_to.window(first)
    person.sees("mail", "main")
    assert live.streams == 1
    person.open("/search")
    wait_until(lambda: live.streams == 0)


def test_many_pages_of_one_browser(person: Person, pages: tuple[str, Any]) -> None:
    """Six connections to a host are all that a browser has; hidden pages leave theirs to others."""
    first = person.driver.current_window_handle
    for _ in range(8):
        person.driver.switch_to.new_window("tab")
        person.open("/queues")
        person.sees("live", ".live")
    assert pages[1].streams <= 2
    for handle in person.driver.window_handles:
        if handle != first:
            person.driver.switch_to.window(handle)
            person.driver.close()
    person.driver.switch_to.window(first)


def test_a_page_whose_server_has_gone_says_so_and_comes_back(
    person: Person, shop: Shop, pages: tuple[str, Any]
) -> None:
    shop.push(1, queue="mail")
    person.open("/queues")
    person.sees("live", ".live")
    pages[1].close()
    person.sees("not connected, trying again", ".live")
    assert "mail" in person.text()
    pages[1]._closed = False
    shop.push(1, queue="images")
    person.sees("images", "main")
    person.sees("live", ".live")
    assert "not connected" not in person.text(".live")
