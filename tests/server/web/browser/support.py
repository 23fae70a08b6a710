"""The pages of a server in a real browser, and a person in front of it."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from faktory import Client
from faktory.server import EmbeddedServer

from ....support import wait_until

CSS = "css selector"

TAB, ENTER, ESCAPE, SPACE = "\ue004", "\ue007", "\ue00c", " "

WIDTHS = (1280, 390, 375, 320)

HOSTILE = "<script>window.hit=1</script></main>\"><img src=x onerror='window.hit=1'>'\u202e{{7*7}}"


@contextmanager
def browsing() -> Iterator[Any]:
    """Chromium without a window; the test is skipped where it, or its driver, is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs the extra browser")
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu"):
        options.add_argument(f"--{argument}")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        browser.set_page_load_timeout(60)
        browser.set_script_timeout(60)
        yield browser
    finally:
        browser.quit()


@contextmanager
def serving(
    server: EmbeddedServer, wrap: Callable[[Any], Any] = lambda app: app, **options: Any
) -> Iterator[tuple[str, Any]]:
    """Serve the pages of a server on a free port: their address, and their streams."""
    for name in ("starlette", "uvicorn", "jinja2"):
        pytest.importorskip(name, reason="needs the extra web")
    from faktory.server.web import application
    from faktory.server.web.run import Runner

    app = application(server, **options)
    live = app.close.__self__  # type: ignore[attr-defined]
    live.interval = 0.2
    outer = wrap(app)
    outer.close = app.close
    runner = Runner(outer, sock := socket.create_server(("127.0.0.1", 0), backlog=128))
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    thread = Thread(target=runner.run, name="test-pages")
    thread.start()
    try:
        yield url, live
    finally:
        runner.stop()
        thread.join(30)
        assert not thread.is_alive()


class Person:
    """What a person does with the browser, and sees."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        self.url = url

    # What the browser is.

    def begin(self) -> None:
        """Be as new: a light screen of 1280 pixels, with script."""
        self.set(1280, "light", script=True)

    def set(self, width: int = 1280, scheme: str = "light", script: bool = True) -> None:
        run = self.driver.execute_cdp_cmd
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        run("Emulation.setDeviceMetricsOverride", size)
        scheme_is = [{"name": "prefers-color-scheme", "value": scheme}]
        run("Emulation.setEmulatedMedia", {"features": scheme_is})
        run("Emulation.setScriptExecutionDisabled", {"value": not script})

    # What they do.

    def open(self, path: str = "/") -> None:
        self.driver.get(f"{self.url}{path}")

    def press(self, text: str, within: str = "main") -> None:
        """Press the button with this text, the first one in a part of the page."""
        self.button(text, within).click()

    def follow(self, text: str, within: str = "body") -> None:
        """Click the link whose text begins so."""
        links = self.all(f"{within} a")
        next(link for link in links if link.text.strip().startswith(text)).click()

    def button(self, text: str, within: str = "main") -> Any:
        buttons = self.all(f"{within} button")
        found = [each for each in buttons if each.text.strip().lower() == text.lower()]
        assert found, (text, [each.text for each in buttons])
        return found[0]

    def tick(self, jid: str) -> None:
        for label in self.all(".tick label"):
            if jid in (label.get_attribute("textContent") or ""):
                label.find_element(CSS, "input").click()
                return
        raise AssertionError(f"no box for {jid}")

    def asked(self) -> bool:
        """Whether the browser shows a question."""
        try:
            return bool(self.driver.switch_to.alert.text)
        except Exception as error:
            if type(error).__name__ != "NoAlertPresentException":
                raise
            return False

    def answer(self, yes: bool) -> str:
        """Say yes or no to the question; return it."""
        wait_until(self.asked)
        question = self.driver.switch_to.alert
        text = str(question.text)
        question.accept() if yes else question.dismiss()
        return text

    def keys(self, *keys: str) -> None:
        self.driver.switch_to.active_element.send_keys(*keys)

    # What they see.

    def one(self, selector: str) -> Any:
        return self.driver.find_element(CSS, selector)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements(CSS, selector)

    def text(self, selector: str = "main") -> str:
        return self.one(selector).text

    def js(self, code: str, *arguments: object) -> Any:
        return self.driver.execute_script(f"return {code}", *arguments)

    def focused(self) -> str:
        """The text, or the name, of what has the focus."""
        element = self.driver.switch_to.active_element
        return element.text or element.get_attribute("name") or element.get_attribute("id") or ""

    def focused_id(self) -> str:
        return str(self.js("document.activeElement.id"))

    def sees(self, text: str, selector: str = "body") -> None:
        """Wait until a text is there."""
        wait_until(lambda: self.holds(text, selector))

    def holds(self, text: str, selector: str = "body") -> bool:
        shown = self.js("document.querySelector(arguments[0])?.innerText ?? ''", selector)
        return text in shown

    def too_wide(self) -> list[str]:
        """What makes the page scroll sideways."""
        return self.js(
            "document.documentElement.scrollWidth <= innerWidth ? [] : ["
            "document.documentElement.scrollWidth + ' px', ...[...document.querySelectorAll('*')]"
            ".filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
            ".slice(-5).map(e => e.outerHTML.slice(0, 80))]"
        )

    def small_texts(self) -> list[str]:
        """What is written in less than 12 pixels."""
        return self.js(
            "[...document.querySelectorAll('body *')].filter(e => "
            "[...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())"
            " && parseFloat(getComputedStyle(e).fontSize) < 12).map(e => e.outerHTML.slice(0, 80))"
        )

    def is_whole(self) -> bool:
        """Whether no hostile text has become more than a text."""
        return (
            self.js("window.hit ?? null") is None
            and not self.all("main script, main img")
            and len(self.all("main")) == len(self.all("footer")) == 1
        )

    def complaints(self) -> list[str]:
        """What the browser has logged: errors of scripts, what the policy forbids."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def axe(self) -> list[str]:
        """Serious and critical findings of axe."""
        self.driver.execute_script(_axe())
        found = self.driver.execute_async_script(
            "const done = arguments[0];"
            "axe.run(document, {resultTypes: ['violations']}).then(r => done(r.violations))"
        )
        return [
            f"{each['id']}: {each['nodes'][0]['html'][:200]}"
            for each in found
            if each["impact"] in ("serious", "critical")
        ]


def _axe() -> str:
    axe = pytest.importorskip("axe_core_python", reason="needs the extra browser")
    return (Path(axe.__file__).parent / "axe.min.js").read_text()


class Shop:
    """A server with the jobs of a shop."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.server = server

    def client(self, **options: Any) -> Client:
        return Client(self.server.url, **options)

    def push(self, count: int = 1, jid: str = "job", **job: Any) -> list[str]:
        jobs = [
            {"jid": f"{jid}-{n:06}", "jobtype": "SendReceipt", "args": [n, "en"], **job}
            for n in range(count)
        ]
        with self.client() as client:
            errors = client.push_bulk(jobs)
        assert errors == {}
        return [job["jid"] for job in jobs]

    def fail(self, count: int = 1, jid: str = "bad", retry: int = 25, **job: Any) -> list[str]:
        """Jobs that fail once; with retry=-1 they are dead at once."""
        jids = self.push(count, jid, queue="failing", retry=retry, **job)
        with self.client() as client:
            for _ in jids:
                fetched = client.fetch("failing")
                assert fetched is not None
                client.fail(
                    fetched["jid"],
                    errtype="SMTPServerDisconnected",
                    message="Connection unexpectedly closed",
                    backtrace=["File mail.py, line 12, in send", "    server.quit()"],
                )
        return jids

    @contextmanager
    def worker(self, wid: str = "worker-1", queue: str = "work") -> Iterator[Client]:
        """A worker that has a job."""
        with self.client(worker_id=wid, labels=["python", "v412"]) as client:
            client.beat(rss_kb=180_000)
            self.push(1, f"{wid}-job", queue=queue)
            assert client.fetch(queue) is not None
            yield client

    def fill(self) -> None:
        """Something for each page."""
        self.push(3, "queued", queue="mail")
        self.push(30, "image", queue="images", jobtype="ResizeImage", args=["oak-table.jpg", 1600])
        self.fail(2, "bad")
        self.fail(2, "dead", retry=-1)
        self.push(2, "later", at="2035-01-31T12:00:00Z")
        with self.client() as client:
            client.pause_queues("images")

    def hostile(self) -> list[str]:
        """Jobs whose texts try to break out of the page, wherever they are shown."""
        long = {
            "jobtype": HOSTILE + "T" * 10_000,
            "args": [HOSTILE, "A" * 10_000, {HOSTILE: HOSTILE}],
        }
        jid = HOSTILE.replace(" ", "/").replace("\u202e", "")  # a jid has neither
        self.push(1, f"queue-{jid}", queue="q" * 200, custom={"note": HOSTILE}, **long)
        self.push(1, f"later-{jid}", at="2035-01-31T12:00:00Z", **long)
        with self.client(worker_id=jid, labels=[HOSTILE[:60]]) as client:
            for retry in (25, -1):
                self.push(1, f"failed-{retry}-{jid}", queue="hostile", retry=retry, **long)
                fetched = client.fetch("hostile")
                assert fetched is not None
                client.fail(
                    fetched["jid"],
                    errtype=HOSTILE + "E" * 300,
                    message=HOSTILE + "שגיאה 🚚 " + "M" * 900,
                    backtrace=[HOSTILE, "b" * 2000],
                )
        return [f"{name}-{jid}-000000" for name in ("queue", "later", "failed-25", "failed--1")]

    def sizes(self) -> dict[str, int]:
        return self.server.sizes
