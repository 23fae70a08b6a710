"""Each page in a browser: what is found how fast, widths, schemes, axe, keyboard, hostile texts."""

from __future__ import annotations

from typing import Any

import pytest

from faktory.server import EmbeddedServer

from .support import ENTER, HOSTILE, SPACE, TAB, WIDTHS, Person, Shop, serving

pytestmark = pytest.mark.soak

LISTS = ["/", "/queues", "/queues/images", "/busy", "/retries", "/scheduled", "/morgue"]

PAGES = [*LISTS, "/?days=180", "/jobs/bad-000000", "/search?q=receipt", "/search", "/nowhere"]


def test_each_page_is_reached_by_clicks_and_says_where_it_is(person: Person, shop: Shop) -> None:
    shop.fill()
    with shop.worker():
        person.open("/")
        for name, path in (
            ("Queues", "/queues"),
            ("Busy", "/busy"),
            ("Retries", "/retries"),
            ("Scheduled", "/scheduled"),
            ("Dead", "/morgue"),
        ):
            person.follow(name, ".pages")
            assert person.js("location.pathname") == path
            assert person.text("h1") == name
            assert person.text(".pages [aria-current=page]").startswith(name)
            assert person.driver.title == f"{name} · Faktory"
            if path != "/queues":
                person.follow("SendReceipt", "main")
                assert person.text("h1") == "SendReceipt"
                assert person.text(".pages [aria-current]").startswith(name)
                person.driver.back()
        person.follow("Queues", ".pages")
        person.follow("images", "main")
        assert person.text("h1") == "images"
        assert "paused" in person.text(".head")
        person.follow("Next", ".paging")
        assert "26 to 30 of 30 jobs" in person.text()
    assert not person.complaints()[1:]  # the first visit of a stream's page that is left may be one


@pytest.mark.parametrize("filled", [False, True])
def test_no_page_scrolls_sideways_or_has_small_texts(
    person: Person, shop: Shop, filled: bool
) -> None:
    if filled:
        shop.fill()
    for path in PAGES:
        person.set(1280)
        person.open(path)
        for width in WIDTHS:
            person.set(width)
            assert person.too_wide() == [], (path, width)
            assert person.small_texts() == [], (path, width)


def test_axe_finds_nothing_serious(person: Person, shop: Shop) -> None:
    shop.fill()
    with shop.worker():
        for path in PAGES:
            person.open(path)
            for scheme in ("light", "dark"):
                person.set(1280, scheme)
                assert person.axe() == [], (path, scheme)
            person.set(390)
            assert person.axe() == [], (path, "phone")


def test_axe_finds_nothing_serious_where_there_are_no_jobs(person: Person) -> None:
    for path in LISTS:
        if path != "/queues/images":
            person.open(path)
            assert person.axe() == [], path


def test_dark_follows_the_system(person: Person) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        person.set(scheme=scheme)
        person.open("/")
        ground = person.js("getComputedStyle(document.body).backgroundColor")
        grounds.append(sum(map(int, ground[4:-1].split(","))))
    assert grounds[0] > 600 > 150 > grounds[1]


def test_touch_targets_of_a_phone_are_large(person: Person, shop: Shop) -> None:
    shop.fill()
    person.set(390)
    for path in ("/", "/queues", "/queues/images", "/retries", "/scheduled", "/jobs/bad-000000"):
        person.open(path)
        small = person.js(
            "[...document.querySelectorAll('button, nav a, .job a, .queue a, .tick label, summary,"
            " #q')].filter(e => e.offsetParent && e.getBoundingClientRect().height < 39.5)"
            ".map(e => e.outerHTML.slice(0, 80))"
        )
        assert small == [], path


def test_pages_without_jobs_say_what_to_do(person: Person) -> None:
    for path, text in (
        ("/", 'client.push({"jobtype"'),
        ("/queues", 'client.push({"jobtype"'),
        ("/busy", "faktory-worker -r jobs.py"),
        ("/retries", "No job waits for a retry."),
        ("/scheduled", '"at": "'),
        ("/morgue", "No job is dead."),
        ("/search", "Enter a jid"),
    ):
        person.open(path)
        assert text in person.text(), path


def test_the_pages_are_whole_without_script(person: Person, shop: Shop) -> None:
    shop.fill()
    person.set(script=False)
    for path in PAGES:
        person.open(path)
        assert person.text("h1") or path.startswith("/?") or path == "/"
        for button in person.all("main button"):
            assert button.is_enabled()


# Keyboard.


def test_the_keyboard_is_enough(person: Person, shop: Shop) -> None:
    shop.fail(2, "bad")
    person.open("/retries")
    person.keys(TAB)
    assert person.focused() == "Skip to content"
    person.keys(ENTER)
    assert person.focused_id() == "main"
    for _ in range(10):
        person.keys(TAB)
        if person.js("document.activeElement.matches('tbody input')"):
            break
    assert person.js("getComputedStyle(document.activeElement).outlineStyle") != "none"
    person.keys(SPACE)
    assert len(person.all(":checked")) == 1
    delete = person.button("Delete", ".chosen")
    assert delete.is_enabled()
    person.js("arguments[0].focus()", delete)
    person.keys(ENTER)
    person.answer(yes=False)
    assert shop.sizes()["retries"] == 2
    assert person.focused() == "Delete"
    person.keys(ENTER)
    person.answer(yes=True)
    person.sees("1 job was deleted.")
    assert shop.sizes()["retries"] == 1


def test_a_slash_goes_to_the_search(person: Person, shop: Shop) -> None:
    shop.fill()
    person.open("/retries")
    person.keys("/")
    assert person.focused() == "q"
    person.keys("oak-table", "/", "1", ENTER)  # where a text is typed, it is a character
    person.sees("No job has this")
    assert person.one("#q").get_attribute("value") == "oak-table/1"
    person.driver.execute_script("document.activeElement.blur()")
    person.keys("/", "oak-table", ENTER)  # what was there is selected
    person.sees("30 jobs with “oak-table”")
    assert len(person.all("main tbody tr")) == 30


def test_search_finds_jobs_everywhere(person: Person, shop: Shop) -> None:
    shop.push(1, "waits", args=["Größe 🚚 <b>"])
    shop.fail(1, "fails", args=["Größe"])
    with shop.worker(queue="groesse"):
        person.open("/search?q=gr%C3%B6%C3%9Fe")
        assert len(person.all("main tbody tr")) == 2
        person.open("/search?q=worker-1-job")
        assert "at work" in person.text("main tbody")


# Hostile texts.


def test_hostile_texts_stay_texts_and_break_no_page(person: Person, shop: Shop) -> None:
    jids = shop.hostile()
    paths = ["/", "/queues", f"/queues/{'q' * 200}", "/busy", "/retries", "/scheduled", "/morgue"]
    for path in [*paths, "/search?q=onerror", "/search?q=%3C/main%3E%3Cscript%3E"]:
        person.set(1280)
        person.open(path)
        assert person.is_whole()
        for width in WIDTHS:
            person.set(width)
            assert person.too_wide() == [], (path, width)
    person.set(1280)
    for jid in jids:
        person.open("/search?q=" + jid.split("<")[0])
        person.one("main .job a").click()
        assert person.is_whole()
        assert HOSTILE in person.js("document.querySelector('main').textContent"), jid
        for width in WIDTHS:
            person.set(width)
            assert person.too_wide() == [], (jid, width)
        person.set(1280)
    assert not [each for each in person.complaints() if "Refused" in each or "Policy" in each]


def test_long_words_leave_buttons_and_labels_whole(person: Person, shop: Shop) -> None:
    shop.hostile()
    with shop.client(worker_id="w" * 150, labels=["l" * 250, "ü"]) as client:
        client.beat()
        for path in ("/queues", "/busy"):
            for width in WIDTHS:
                person.set(width)
                person.open(path)
                assert all(each.size["height"] <= 41 for each in person.all("td button")), width
                outside = (
                    "[...document.querySelectorAll('.panel tbody *')].filter(e =>"
                    " !e.closest('.hide') && e.getBoundingClientRect().right > e.closest('.panel')"
                    ".getBoundingClientRect().right).map(e => e.outerHTML.slice(0, 80))"
                )
                assert person.js(outside) == [], (path, width)


def test_a_question_with_a_hostile_text_is_a_text(person: Person, shop: Shop) -> None:
    with shop.client(worker_id="w1") as client:
        client.beat()
        shop.server._call(lambda state: setattr(state.workers.table["w1"], "hostname", HOSTILE))
        person.open("/busy")
        person.press("Stop", "main tbody")
        question = person.answer(yes=True)
        assert "<script>window.hit=1</script>" in question
        person.sees("asked to stop")
        assert person.is_whole()


# Many jobs, read only.


def test_a_long_queue_is_shown_page_by_page(person: Person, shop: Shop) -> None:
    shop.push(10_000, queue="long")
    person.open("/queues/long")
    assert len(person.all("main tbody tr")) == 25
    person.follow("400", ".paging")
    assert "job-009999" in person.text()
    person.follow("Previous", ".paging")
    assert "9,951 to 9,975 of 10,000 jobs" in person.text()


def test_a_hundred_thousand_jobs(person: Person, shop: Shop) -> None:
    shop.push(100_000, queue="long")
    for path in ("/", "/queues", "/queues/long", "/queues/long?page=4000&count=25"):
        person.open(path)
        took = person.js("performance.getEntriesByType('navigation')[0].responseEnd")
        assert "100,000" in person.text()
        assert took < 2000
    assert "job-099999" in person.text()
    person.open("/search?q=job-050000")
    assert len(person.all("main tbody tr")) == 1


def test_read_only_pages_have_no_buttons(driver: Any, shop: Shop) -> None:
    shop.fill()
    with serving(shop.server, read_only=True) as (url, _):
        person = Person(driver, url)
        person.begin()
        for path in PAGES:
            person.open(path)
            assert not person.all("button, form[method=post], main input"), path
            assert person.axe() == [], path
        driver.get("about:blank")


def test_the_pages_work_under_a_path(driver: Any, shop: Shop) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    def wrap(app: Any) -> Starlette:
        return Starlette(routes=[Mount("/faktory", app)])

    shop.fill()
    with serving(shop.server, wrap) as (url, _):
        person = Person(driver, f"{url}/faktory")
        person.begin()
        person.open("/")
        person.follow("Retries", ".pages")
        person.sees("live", ".live")
        person.follow("SendReceipt", "main")
        person.press("Retry", ".trouble")
        person.sees("was moved to its queue")
        assert person.js("location.pathname").startswith("/faktory/")
        driver.get("about:blank")


def test_a_stopped_server_keeps_no_browser_waiting(driver: Any) -> None:
    with EmbeddedServer() as server, serving(server) as (url, _):
        person = Person(driver, url)
        person.begin()
        person.open("/queues")
        person.sees("live", ".live")
    person.sees("not connected, trying again", ".live")
    assert "There is no queue yet" in person.text()
    driver.get("about:blank")
