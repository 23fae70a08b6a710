from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import faktory
from faktory import Client
from faktory.server import EmbeddedServer
from faktory.server.web import rows
from faktory.server.web.rendering import Renderer, ago, duration, instant, number, size

from .support import Web, fail, push, served

LISTS = ("/queues/default", "/retries", "/scheduled", "/morgue")


def jobs_in(text: str) -> list[str]:
    """Return the jids that a page has links to, in order."""
    return list(dict.fromkeys(re.findall(r'href="[^"]*/jobs/([^"]+)"', text)))


def test_the_body_of_an_answer_does_not_wait_for_the_head(web: Web) -> None:
    with web.connect() as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(12) == b"HTTP/1.1 200"
        for connection in list(web.runner._server.server_state.connections):
            theirs: Any = connection.transport.get_extra_info("socket")
            assert theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# Lists.


def test_the_first_page_has_the_counts_as_text(server: EmbeddedServer, web: Web) -> None:
    for each in range(3):
        push(server, each)
    push(server, at="2050-01-01T00:00:00Z")
    fail(server, ValueError("no"))
    text = re.sub(r"<[^>]*>", " ", web.get("/").text)
    for word in ("processed", "failed", "busy", "enqueued", "retries", "scheduled", "dead"):
        assert re.search(word, text, re.IGNORECASE), word


def test_the_first_page_has_the_last_jobs_that_failed(server: EmbeddedServer, web: Web) -> None:
    jids = [fail(server, ValueError(f"cause {each}")) for each in range(7)]
    page = web.get("/")
    assert sorted(jobs_in(page.text)) == sorted(jids[2:])
    assert "ValueError: cause 6" in page.text
    assert "cause 1" not in page.text


@pytest.mark.parametrize("days", [7, 30, 90, 180])
def test_the_first_page_has_a_period(server: EmbeddedServer, web: Web, days: int) -> None:
    assert web.get(f"/?days={days}").status == 200


def test_a_list_has_pages_of_which_each_job_is_on_one(either: EmbeddedServer) -> None:
    with Client(either.url) as client:
        jids = [client.push({"jobtype": "work", "args": [each]}) for each in range(60)]
    with served(either) as web:
        pages = [jobs_in(web.get(f"/queues/default?page={page}").text) for page in (1, 2, 3)]
        assert [len(page) for page in pages] == [25, 25, 10]
        assert [jid for page in pages for jid in page] == jids
        assert jobs_in(web.get("/queues/default?page=4").text) == pages[2]
        assert jobs_in(web.get("/queues/default?count=500").text) == jids
        assert re.search(r'href="[^"]*page=2', web.get("/queues/default").text)


def test_a_page_has_500_rows_at_most(server: EmbeddedServer, web: Web) -> None:
    with Client(server.url) as client:
        client.push_bulk([{"jobtype": "work", "args": [each]} for each in range(700)])
        later = {"jobtype": "work", "at": "2050-01-01T00:00:00Z"}
        client.push_bulk([{**later, "args": [each]} for each in range(700)])
    for path in ("/queues/default", "/scheduled"):
        assert len(jobs_in(web.get(f"{path}?count=100000").text)) == 500
        assert len(jobs_in(web.get(f"{path}?count=500&page=2").text)) == 200


def test_the_sets_are_in_order_and_the_dead_from_the_last(server: EmbeddedServer, web: Web) -> None:
    due = [push(server, at=f"20{year}-01-01T00:00:00Z") for year in (52, 50, 51)]
    assert jobs_in(web.get("/scheduled").text) == [due[1], due[2], due[0]]
    dead = []
    for each in range(3):
        dead.append(fail(server, ValueError(f"no {each}"), retry=-1))
        server.travel(1)
    assert jobs_in(web.get("/morgue").text) == dead[::-1]


def test_the_queues_have_their_sizes_and_pauses(server: EmbeddedServer, web: Web) -> None:
    for name in ("mails", "a.b-c_d"):
        push(server, queue=name)
    with Client(server.url) as client:
        client.pause_queues("mails")
    text = web.get("/queues").text
    assert text.index('href="/queues/a.b-c_d"') < text.index('href="/queues/mails"')
    assert "paused" in text.lower()
    assert web.get("/queues/nothing").status == 404


def test_many_queues_have_pages(server: EmbeddedServer, web: Web) -> None:
    with Client(server.url) as client:
        client.push_bulk(
            [{"jobtype": "work", "args": [], "queue": f"q{each:03}"} for each in range(130)]
        )
    names = re.findall(r'href="/queues/(q\d+)"', web.get("/queues?page=6").text)
    assert list(dict.fromkeys(names)) == [f"q{each:03}" for each in range(125, 130)]


def test_busy_has_the_workers_and_their_jobs(
    server: EmbeddedServer, web: Web, dial: Callable[..., Any]
) -> None:
    jid = push(server)
    worker = dial(wid="worker-1", hostname="host-1", labels=["python", "gpu"], pid=4711)
    worker.call("FETCH default")
    text = web.get("/busy").text
    assert jobs_in(text) == [jid]
    for known in ("worker-1", "host-1", "4711", "gpu"):
        assert known in text


def test_long_arguments_and_errors_are_cut_in_lists(server: EmbeddedServer, web: Web) -> None:
    jid = fail(server, ValueError("e" * 900), "a" * 10_000)
    text = web.get("/retries").text
    assert 290 < max(map(len, re.findall("a+", text))) < 301
    assert 280 < max(map(len, re.findall("e+", text))) < 301
    assert "a" * 10_000 in web.get(f"/jobs/{jid}").text


# A job.


def test_a_job_has_a_page_wherever_it_is(
    server: EmbeddedServer, web: Web, dial: Callable[..., Any]
) -> None:
    args = ["<b>", "ü☃", {"to": "me"}]
    queued = push(server, *args, queue="other", custom={"trace": "x&y"})
    later = push(server, *args, at="2050-01-01T00:00:00Z")
    failed = fail(server, ValueError("the cause"), *args)
    dead = fail(server, KeyError("another"), *args, retry=-1)
    at_work = push(server, *args)
    dial(wid="worker-1", pid=1).call("FETCH default")
    for jid in (queued, later, failed, dead, at_work):
        page = web.get(f"/jobs/{jid}")
        assert page.status == 200
        assert "ü☃" in page.text
        assert "&lt;b&gt;" in page.text
        assert jid in page.text
    assert "x&amp;y" in web.get(f"/jobs/{queued}").text
    assert "the cause" in web.get(f"/jobs/{failed}").text
    assert "worker-1" in web.get(f"/jobs/{at_work}").text
    assert web.get("/jobs/none-of-ours").status == 404


def test_all_copies_of_a_job_are_shown(server: EmbeddedServer, web: Web) -> None:
    push(server, "first", jid="the-same-jid")
    push(server, "second", jid="the-same-jid", at="2050-01-01T00:00:00Z")
    text = web.get("/jobs/the-same-jid").text
    assert "first" in text
    assert "second" in text


def test_a_job_with_an_odd_jid_has_a_page(
    server: EmbeddedServer, web: Web, dial: Callable[..., Any]
) -> None:
    client = dial()
    for jid in ("a/b/../c?d#e", "new\nline\n", "per%cent%2f", "ünï☃ 'quoted\"", "x" * 10_000):
        assert client.push(jid, queue="odd") == b"+OK"
        assert web.get(f"/jobs/{quote(jid, safe='')}").status == 200
    links = jobs_in(web.get("/queues/odd").text)
    assert len(links) == 5
    assert [web.get(f"/jobs/{link}").status for link in links] == [200] * 5


def test_large_arguments_are_cut_on_the_page_of_a_job(server: EmbeddedServer, web: Web) -> None:
    jid = push(server, "<" * 300_000)
    page = web.get(f"/jobs/{jid}")
    assert "characters in all" in page.text
    assert len(page.text) < 1_000_000


def test_large_errors_are_cut_on_the_page_of_a_job(
    server: EmbeddedServer, web: Web, dial: Callable[..., Any]
) -> None:
    jid = push(server)
    worker = dial(wid="worker-1", pid=1)
    worker.call("FETCH default")
    worker.call(f'FAIL {{"jid":"{jid}","backtrace":["first","{"x" * 300_000}","last"]}}')
    text = web.get(f"/jobs/{jid}").text
    assert "first\nxxx" in text
    assert "300,011 characters in all" in text
    assert len(text) < 200_000
    own = {"retry_count": 1, "errtype": "E" * 300_000, "message": "m" * 300_000, "backtrace": []}
    jid = "job-with-its-own-record"
    job = {"jid": jid, "jobtype": "T" * 300_000, "args": [], "failure": own}
    worker.call(f"PUSH {json.dumps(job)}")
    text = web.get(f"/jobs/{jid}").text
    assert text.count("300,000 characters in all") == 3
    assert len(text) < 300_000


def test_each_failed_run_is_shown_with_its_error(either: EmbeddedServer) -> None:
    with Client(either.url) as client, served(either) as web:
        jid = client.push({"jobtype": "work", "args": []})
        for each in range(3):
            assert client.fetch("default") is not None
            client.fail(jid, ValueError(f"cause {each}"))
            either.travel(2000)
        text = web.get(f"/jobs/{jid}").text
        assert text.index("cause 2") < text.index("cause 1") < text.index("cause 0")


# Search.


def test_the_search_finds_jobs_in_all_places(
    server: EmbeddedServer, web: Web, dial: Callable[..., Any]
) -> None:
    with Client(server.url) as client:
        client.push_bulk(
            [{"jobtype": "work", "args": [f"number {each}"], "queue": "q"} for each in range(3000)]
        )
    at_work = push(server, "needle Ünïcode <&>")
    dial(wid="worker-1", pid=1).call("FETCH default")
    found = {
        at_work,
        push(server, "needle Ünïcode <&>"),
        push(server, {"deep": ["needle Ünïcode <&>"]}, at="2050-01-01T00:00:00Z"),
        fail(server, ValueError("needle Ünïcode <&>")),
        fail(server, ValueError("needle Ünïcode <&>"), retry=-1),
    }
    for text in ("needle", "NEEDLE ünïcode", "e Ünïcode <&>", "<&>"):
        page = web.get(f"/search?q={quote(text)}")
        assert set(jobs_in(page.text)) == found, text
    assert "number 1500" in web.get("/search?q=number%201500").text
    assert jobs_in(web.get(f"/search?q={at_work}").text) == [at_work]
    assert jobs_in(web.get("/search?q=u003c").text) == []
    assert jobs_in(web.get("/search?q=").text) == []
    assert jobs_in(web.get("/search").text) == []


def test_a_search_shows_a_hundred_jobs_at_most(server: EmbeddedServer, web: Web) -> None:
    with Client(server.url) as client:
        client.push_bulk([{"jobtype": "work", "args": ["same"]} for _ in range(300)])
    assert len(jobs_in(web.get("/search?q=same").text)) == 100


# Actions.


@pytest.mark.parametrize("action", ["retry", "Retry", "add to queue", "add_to_queue"])
def test_retries_go_to_their_queue(either: EmbeddedServer, action: str) -> None:
    for _ in range(3):
        fail(either, ValueError("no"))
    with served(either) as web:
        keys = web.get("/retries").values("key")
        jids = [key.partition("|")[2] for key in keys]
        page = web.act("/retries", {"action": action, "key": keys[:2]})
        assert "2 jobs were moved to their queues." in page.text
        assert jobs_in(page.text) == jids[2:]
        assert {job["jid"] for job in either.queues["failing"]} == set(jids[:2])


@pytest.mark.parametrize(("path", "size"), [("/retries", "retries"), ("/morgue", "dead")])
def test_all_jobs_of_a_set_are_meant_by_all(either: EmbeddedServer, path: str, size: str) -> None:
    retry = 25 if size == "retries" else -1
    with served(either) as web:
        for action, place in (("delete", ""), ("retry", "queued")):
            for _ in range(3):
                fail(either, ValueError("no"), retry=retry)
            assert either.sizes[size] == 3
            web.act(path, {"action": action, "key": "all"})
            sizes = either.sizes
            assert sizes[size] == 0
            assert sizes["queued"] == (3 if place else 0)


def test_jobs_are_killed_and_deleted(either: EmbeddedServer) -> None:
    with served(either) as web:
        push(either, at="2050-01-01T00:00:00Z")
        fail(either, ValueError("no"))
        for path in ("/scheduled", "/retries"):
            page = web.act(path, {"action": "kill", "key": web.get(path).values("key")})
            assert "1 job was killed." in page.text
        assert either.sizes["dead"] == 2
        page = web.act("/morgue", {"action": "delete", "key": web.get("/morgue").values("key")})
        assert "2 jobs were deleted." in page.text
        assert sum(either.sizes.values()) == 0


def test_what_is_gone_is_said(server: EmbeddedServer, web: Web) -> None:
    fail(server, ValueError("no"))
    page = web.get("/retries")
    (key,) = page.values("key")
    form = [("token", page.token), ("action", "delete"), ("key", key)]
    assert "1 job was deleted." in web.get(web.post("/retries", form)["location"]).text
    assert "not here any more" in web.get(web.post("/retries", form)["location"]).text
    nothing = web.post("/retries", form[:2])
    assert "nothing was done" in web.get(nothing["location"]).text


def test_a_queue_is_paused_resumed_and_cleared(either: EmbeddedServer) -> None:
    push(either)
    with served(either) as web, Client(either.url) as client:
        assert "paused" in web.act("/queues/default", {"action": "pause"}, "/queues").text
        assert client.fetch("default") is None
        web.act("/queues/default", {"action": "resume"}, "/queues")
        page = web.act("/queues/default", {"action": "clear"}, "/queues")
        assert "1 job was deleted" in page.text
        assert either.queues == {"default": []}
        push(either)
        web.act("/queues/default", {"action": "delete"}, "/queues")  # of the real server's form
        assert either.queues == {"default": []}


def test_jobs_of_a_queue_are_deleted(either: EmbeddedServer) -> None:
    jids = [push(either, each) for each in range(4)]
    with served(either) as web:
        page = web.get("/queues/default")
        assert page.values("bkey") == jids
        page = web.act("/queues/default", {"action": "delete", "bkey": jids[1:3]})
        assert "2 jobs were deleted." in page.text
        page = web.act("/queues/default", {"action": "delete ticked"})
        assert "nothing was done" in page.text
    assert [job["jid"] for job in either.queues["default"]] == [jids[0], jids[3]]


def test_what_was_done_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with EmbeddedServer(data=path) as server, served(server) as web:
        kept, gone = push(server), push(server)
        fail(server, ValueError("no"))
        web.act("/queues/default", {"action": "delete", "bkey": gone})
        web.act("/retries", {"action": "kill", "key": "all"})
        web.act("/queues/default", {"action": "pause"}, "/queues")
    with EmbeddedServer(data=path) as server:
        assert [job["jid"] for job in server.queues["default"]] == [kept]
        assert server.sizes["dead"] == 1
        with Client(server.url) as client:
            assert client.fetch("default") is None


def test_the_page_of_a_job_acts_on_that_copy(server: EmbeddedServer, web: Web) -> None:
    fail(server, ValueError("no"), jid="the-same-jid")
    push(server, jid="the-same-jid", at="2050-01-01T00:00:00Z")
    page = web.get("/jobs/the-same-jid")
    keys = dict(zip(page.values("place"), page.values("key"), strict=True))
    form = {"action": "kill", "place": "retries", "key": keys["retries"]}
    page = web.act("/jobs/the-same-jid", form)
    assert "1 job was killed." in page.text
    assert server.sizes == {"queued": 0, "scheduled": 1, "retries": 0, "dead": 1, "working": 0}
    web.act("/jobs/the-same-jid", {"action": "delete", "place": "dead"})
    page = web.act("/jobs/the-same-jid", {"action": "add to queue"})
    assert server.sizes["queued"] == 1
    page = web.act("/jobs/the-same-jid", {"action": "delete", "place": "queue"})
    assert server.sizes["queued"] == 0
    assert "1 job was deleted." in page.text  # on the list where it was


def test_workers_are_asked_to_be_quiet_and_to_stop(
    server: EmbeddedServer, web: Web, dial: Callable[..., Any]
) -> None:
    beat = 'BEAT {"wid":"worker-1"}'
    worker = dial(wid="worker-1", pid=1)
    other = dial(wid="worker-2", pid=2)
    assert worker.call(beat) == b"+OK"
    page = web.act("/busy", {"wid": "worker-1", "signal": "quiet"})
    assert "asked to be quiet" in page.text
    assert json.loads(worker.call(beat)) == {"state": "quiet"}
    assert other.call('BEAT {"wid":"worker-2"}') == b"+OK"
    web.act("/busy", {"wid": "all", "signal": "terminate"})
    assert json.loads(worker.call(beat)) == {"state": "terminate"}
    assert json.loads(other.call('BEAT {"wid":"worker-2"}')) == {"state": "terminate"}
    page = web.act("/busy", {"wid": "gone", "signal": "quiet"})
    assert "not connected any more" in page.text


def test_a_worker_stops_when_asked_to(server: EmbeddedServer, web: Web) -> None:
    from threading import Thread

    worker = faktory.Worker(server.url, queues=["none"])
    thread = Thread(target=worker.run)
    thread.start()
    try:
        while not server.workers:
            pass
        web.act("/busy", {"wid": "all", "signal": "terminate"})
        worker.stop()
    finally:
        thread.join(20)
    assert not thread.is_alive()


# Numbers for programs.


def test_stats_are_those_of_info(server: EmbeddedServer, web: Web) -> None:
    push(server)
    fail(server, ValueError("no"))
    answer = web.get("/stats")
    assert answer["content-type"] == "application/json"
    stats = json.loads(answer.text)
    with Client(server.url) as client:
        info: Any = client.info()
    for each in (stats, info):
        del each["now"], each["server_utc_time"], each["server"]
    assert stats == info
    assert stats["faktory"]["queues"] == {"default": 1, "failing": 0}


# The filters of the templates.


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "now"),
        (9, "now"),
        (19, "10 s ago"),
        (61, "1 min ago"),
        (7300, "2 h ago"),
        (-5, "now"),
        (-30, "in 30 s"),
        (-90000, "in 1 d"),
    ],
)
def test_ago_is_coarse(seconds: int, text: str) -> None:
    context: Any = {"now": 1_800_000_000 * 10**9}
    written = ago(context, (1_800_000_000 - seconds) * 10**9)
    assert f">{text}</time>" in written
    assert 'datetime="2027-01-1' in written
    assert ago(context, None) == instant(None) == ""


def test_an_instant_beyond_all_calendars_is_written() -> None:
    assert instant(1_800_000_000_123_456_789).endswith(">2027-01-15T08:00:00Z</time>")
    for odd in (10**30, -(10**30), 0):
        assert "<time" in instant(odd)


def test_numbers_sizes_and_durations() -> None:
    assert number(1234567) == "1,234,567"
    assert [size(0.5), size(20), size(2048), size(52_000_000)] == [
        "0.5 kB",
        "20 kB",
        "2.0 MB",
        "50 GB",
    ]
    assert [duration(each) for each in (0, 0.02, 1, 184, 90061)] == [
        "0 s",
        "20 ms",
        "1 s",
        "3 min 4 s",
        "1 d 1 h",
    ]


def test_a_name_that_is_not_there_is_an_error() -> None:
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError):
        Renderer().page("index", page=None)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (r'["\u003cb\u003e \u0026"]', '["<b> &"]'),
        (r'["\\u003cb"]', r'["\\u003cb"]'),
        (r'["\\\u003cb"]', r'["\\<b"]'),
        (r'["\n\"\u2028"]', '["\\n\\"\u2028"]'),
    ],
)
def test_escapes_of_go_are_undone_and_no_others(text: str, shown: str) -> None:
    assert rows.unescape(text) == shown
