"""Each sentence of docs/browser.md about security, and what an attacker may send."""

from __future__ import annotations

import json
import re
import socket
import ssl
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from faktory.server import EmbeddedServer

from .support import (
    Stream,
    Web,
    application,
    fail,
    push,
    read_answer,
    served,
    serving,
)

PAGES = [
    "/",
    "/?days=7",
    "/queues",
    "/queues/failing",
    "/busy",
    "/retries",
    "/scheduled",
    "/morgue",
    "/search?q=work",
    "/jobs/nothing-here",
    "/nothing",
    "/stats",
    "/static/page.css",
    "/static/page.js",
    "/static/icon.svg",
]
POSTS = ["/queues/failing", "/retries", "/scheduled", "/morgue", "/busy", "/jobs/abcdefgh", "/"]

HOSTILE = (
    "</main><script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u202e{{7*7}}\x00\x1b[31m"
)


def basic(password: str, user: str = "admin", charset: str = "utf-8") -> dict[str, str]:
    return {"Authorization": f"Basic {b64encode(f'{user}:{password}'.encode(charset)).decode()}"}


# Where a request comes from.


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost.", "127.0.0.1", "[::1]"])
@pytest.mark.parametrize("port", ["", ":7420"])
def test_without_a_password_a_page_has_the_name_of_this_machine(
    web: Web, host: str, port: str
) -> None:
    assert web.get("/", Host=f"{host}{port}").status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7420",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "localhost@evil.example",
        "localhost:x",
        "localhost/",
        "[::1",
        "1.2.3",
        "a b",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/", "/stats", "/health", "/static/page.css", "/nothing"])
def test_any_other_name_is_refused(web: Web, host: str, path: str) -> None:
    assert web.get(path, Host=host).status in (400, 421)


def test_a_request_without_a_host_is_refused(web: Web) -> None:
    assert web.raw(b"GET / HTTP/1.0\r\n\r\n").status == 421
    assert web.raw(b"GET / HTTP/1.1\r\n\r\n").status == 400


def test_several_hosts_are_refused(web: Web) -> None:
    two = b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
    assert web.raw(two).status == 400


def test_a_program_may_allow_its_names(server: EmbeddedServer) -> None:
    with served(server, hosts=["Jobs.Example", ""]) as web:
        assert web.get("/", Host="jobs.example:8000").status == 200
        assert web.get("/", Host="").status in (400, 421)
        assert web.get("/", Host="other.example").status == 421


def test_with_a_password_any_name_will_do() -> None:
    with EmbeddedServer(password="geheim") as server, served(server) as web:
        assert web.get("/", Host="jobs.example", **basic("geheim")).status == 200


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "http://evil.example",
        "https://127.0.0.1:{port}",
        "http://127.0.0.1",
        "http://127.0.0.1:1",
        "http://localhost:{port}",
        "http://127.0.0.1:{port}.evil.example",
        "http://127.0.0.1:{port}@evil.example",
        "http://evil.example#http://127.0.0.1:{port}",
        "http://127.0.0.1:{port}/",
        "127.0.0.1:{port}",
        "file://",
        "http://127.0.0.1:{port} http://evil.example",
    ],
)
def test_a_form_of_another_origin_is_refused(server: EmbeddedServer, web: Web, origin: str) -> None:
    push(server)
    token = web.get("/queues").token
    sent = web.ask(
        "POST",
        "/queues/default",
        f"token={token}&action=clear",
        {
            "Content-Type": "application/x-www-form-urlencoded",
            "Origin": origin.format(port=web.port),
        },
    )
    assert sent.status == 403
    assert server.sizes["queued"] == 1


def test_several_origins_are_refused(server: EmbeddedServer, web: Web) -> None:
    push(server)
    body = f"token={web.get('/queues').token}&action=clear".encode()
    head = (
        f"POST /queues/default HTTP/1.1\r\nHost: 127.0.0.1:{web.port}\r\nOrigin: {web.origin}\r\n"
        f"Origin: http://evil.example\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    assert web.raw(head.encode() + body).status == 400
    assert server.sizes["queued"] == 1


def test_the_origin_is_compared_by_its_port_also_where_that_is_not_written(web: Web) -> None:
    token = web.get("/busy").text
    assert token
    for host, origin, status in (
        ("127.0.0.1", "http://127.0.0.1", 403),  # only the token is wrong
        ("127.0.0.1:80", "http://127.0.0.1", 403),
        ("127.0.0.1", "http://127.0.0.1:80", 403),
    ):
        sent = web.post("/busy", {"token": "x" * 43}, origin=origin, Host=host)
        assert sent.status == status
        assert "An old page" in sent.text


def test_without_an_origin_the_token_decides(server: EmbeddedServer, web: Web) -> None:
    push(server)
    form = {"action": "clear", "token": "x" * 43}
    assert web.post("/queues/default", form, origin=None).status == 403
    assert server.sizes["queued"] == 1
    form["token"] = web.get("/queues").token
    assert web.post("/queues/default", form, origin=None).status == 303
    assert server.sizes["queued"] == 0


@pytest.mark.parametrize("path", POSTS)
def test_a_form_without_the_token_is_refused(web: Web, path: str) -> None:
    for fields in (
        {},
        {"token": ""},
        {"token": "wrong"},
        {"token": "ü\0"},
        [("token", "a"), ("token", "b")],
    ):
        assert web.post(path, fields).status == 403


def test_the_token_is_long_and_of_this_application(server: EmbeddedServer, web: Web) -> None:
    push(server)
    with served(server) as other:
        mine, theirs = web.get("/queues").token, other.get("/queues").token
    assert len(mine) >= 16
    assert mine != theirs
    assert web.get("/queues").token == mine


def test_the_token_may_not_be_in_the_address(server: EmbeddedServer, web: Web) -> None:
    push(server)
    token = web.get("/queues").token
    assert web.post(f"/queues/default?token={token}&action=clear", {}).status == 403
    assert web.get(f"/queues/default?token={token}&action=clear").status == 200
    assert server.sizes["queued"] == 1


# The password.


@pytest.mark.parametrize("password", ["geheim", "pässwörd ☃", "a:b", " "])
def test_the_password_is_that_of_the_server(password: str) -> None:
    with EmbeddedServer(password=password) as server, served(server) as web:
        for path in PAGES:
            asked = web.get(path)
            assert asked.status == 401
            assert asked["www-authenticate"] == 'Basic realm="Faktory", charset="UTF-8"'
            assert "token" not in asked.text
            for wrong in (basic(f"{password}x"), basic(""), basic(password[:-1])):
                assert web.get(path, **wrong).status == 401
            assert web.get(path, **basic(password, user="")).status in (200, 404)
        for path in POSTS:
            assert web.post(path, {}).status == 401
        assert web.get("/", Accept="text/event-stream").status == 401
        assert web.get("/health").text == '{"status":"up"}'


@pytest.mark.parametrize(
    "given",
    [
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic Zm9v",
        "Bearer Z2VoZWlt",
        "basic \xff",
        f"Basic {b64encode(b'geheim').decode()}",
        f"Basic {b64encode(b'geheim:').decode()}",
        f"Basic {b64encode(bytes(range(256))).decode()}",
        "Basic " + "A" * 30000,
    ],
)
def test_a_broken_password_is_a_wrong_one(given: str) -> None:
    with EmbeddedServer(password="geheim") as server, served(server) as web:
        assert web.get("/", Authorization=given).status == 401


def test_several_passwords_are_refused() -> None:
    with EmbeddedServer(password="geheim") as server, served(server) as web:
        right = f"Authorization: {basic('geheim')['Authorization']}\r\n".encode()
        wrong = f"Authorization: {basic('wrong')['Authorization']}\r\n".encode()
        for both in (right + wrong, wrong + right):
            request = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + both + b"\r\n"
            assert web.raw(request).status == 400


def test_health_says_only_that_it_is_up(web: Web) -> None:
    answer = web.get("/health")
    assert (answer.status, answer.text) == (200, '{"status":"up"}')


# Read only.


def test_read_only_shows_no_button_that_posts_and_takes_no_form(server: EmbeddedServer) -> None:
    jid = fail(server, ValueError("no"))
    push(server, queue="failing")
    push(server, at="2050-01-01T00:00:00Z")
    with served(server, read_only=True) as web, served(server) as other:
        for path in (*PAGES, f"/jobs/{jid}"):
            page = web.get(path)
            assert "post" not in re.sub(r"<script.*?</script>", "", page.text.lower())
            assert "token" not in page.text or "/static/" in path
        form = {"token": other.get("/queues").token, "action": "clear", "key": "all"}
        for path in POSTS:
            sent = web.post(path, form)
            assert sent.status == 403
            assert "Read only" in sent.text
    assert server.sizes == {"queued": 1, "scheduled": 1, "retries": 1, "dead": 0, "working": 0}


# What is in the jobs of strangers.


def test_all_values_of_jobs_and_workers_are_escaped(web: Web, dial: Callable[..., Any]) -> None:
    client = dial(wid=HOSTILE, hostname=HOSTILE, labels=[HOSTILE], pid=1)
    hostile = {"jobtype": HOSTILE, "args": [HOSTILE, {HOSTILE: HOSTILE}], "custom": {"a": HOSTILE}}
    later = "2050-01-01T00:00:00Z"
    for number, fields in enumerate(({"queue": "failing"}, {"at": later}, {"queue": "default"})):
        assert client.push(f"{HOSTILE}.{number}", **hostile, **fields) == b"+OK"
    client.call("FETCH failing")
    report = {"jid": f"{HOSTILE}.0", "errtype": HOSTILE, "message": HOSTILE, "backtrace": [HOSTILE]}
    assert client.call(f"FAIL {json.dumps(report)}") == b"+OK"
    client.call("FETCH default")
    paths = [path for path in PAGES if "static" not in path and path != "/stats"]
    paths += [f"/jobs/{quote(f'{HOSTILE}.{number}', safe='')}" for number in range(3)]
    pages = [web.get(path) for path in (*paths, f"/search?q={quote(HOSTILE)}", "/search?q=onerror")]
    assert [page.status for page in pages[-5:]] == [200] * 5
    assert sum("alert(1)" in page.text for page in pages) >= 9
    for page in pages:
        text = page.text.lower()
        assert "<script>" not in text
        assert "<img src=x" not in text
        assert text.count("<main") == text.count("</main>") == 1
        tags = re.findall(r"<(?:\"[^\"]*\"|[^>\"])*>", text)
        assert not [
            tag for tag in tags if re.search(r"\s(on\w+|style)=", re.sub(r'"[^"]*"', "", tag))
        ]


def test_no_page_has_a_script_or_style_of_its_own(server: EmbeddedServer, web: Web) -> None:
    fail(server, ValueError("no"))
    for path in PAGES:
        text = web.get(path).text
        assert re.findall(r"<script(?![^>]*\ssrc=)", text) == []
        assert "<style" not in text
        if "static" not in path:
            for address in re.findall(r'(?:src|href|action)="([^"]*)"', text):
                assert address.startswith(("/", "#", "?")), address
                assert not address.startswith("//")


# Odd requests.


@pytest.mark.parametrize(
    "method", ["OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "get"]
)
def test_other_methods_are_refused(web: Web, method: str) -> None:
    for path in ("/", "/queues/default", "/health", "/nothing", "/static/page.css"):
        answer = web.ask(method, path, headers={"Access-Control-Request-Method": "POST"})
        assert answer.status == 405
        assert answer["allow"] == "GET, HEAD, POST"


def test_head_is_a_page_without_its_text(web: Web) -> None:
    for path in PAGES:
        answer = web.ask("HEAD", path, headers={"Accept": "text/event-stream"})
        assert answer.status == web.get(path).status
        assert answer.text == ""


ODD = [
    "?page=-1",
    "?page=0",
    "?page=99999999999999999999",
    f"?page={'9' * 6000}",
    "?page=1.5",
    "?page=%00",
    "?page=",
    "?page=1&page=2",
    "?page=%D9%A1",
    "?count=0",
    "?count=-5",
    "?count=1000000",
    "?count=x&page=y",
    "?days=0",
    "?days=31",
    "?%ff=%fe",
    "?q=%ff%00%",
    "?q=" + "%F0%9F%98%80" * 4000,
    "?" + "&".join(["a"] * 10000),
    "?done=%00",
    "?done=" + "x" * 10000,
    "?%",
    "?;&=&==",
]


@pytest.mark.parametrize("query", ODD)
def test_odd_queries_are_answered(server: EmbeddedServer, web: Web, query: str) -> None:
    for _ in range(3):
        push(server)
    for path in ("/", "/queues", "/queues/default", "/busy", "/retries", "/morgue", "/search"):
        assert web.get(f"{path}{query}").status == 200
    assert web.get(f"/jobs/x{query}").status == 404


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/" + "a" * 10000,
        "/jobs/" + "%00" * 1000,
        "/jobs/%ff%fe",
        "/jobs/%",
        "/jobs/%zz",
        "/jobs/%0a",
        "/jobs/..%2f..%2fetc%2fpasswd",
        "/jobs/",
        "/jobs",
        "/queues/..%2f..%2fetc",
        "/queues/%2e%2e",
        "/queues/" + "q" * 10000,
        "/queues/%00",
        "/queues/a/b",
        "/queues/",
        "/retries/x",
        "/retries/",
        "/static/",
        "/static/..%2fpages.py",
        "/static/..%2f..%2fembedded.py",
        "/static/%2e%2e/__init__.py",
        "/static/../__init__.py",
        "/static//etc/passwd",
        "/static/page.css%00",
        "/static/page.css/",
        "/templates/layout.html",
        "//evil.example/",
        "/\\evil.example",
        "/%2f%2fevil.example",
        "/health/",
        "/;/",
    ],
)
def test_odd_paths_lead_nowhere(web: Web, path: str) -> None:
    answer = web.get(path)
    assert answer.status in (404, 307, 303), answer
    if answer.status != 404:
        assert not answer["location"].startswith(("//", "/\\", "http://e"))
    assert "import " not in answer.text


def test_the_addresses_of_the_real_server_lead_to_a_job(web: Web) -> None:
    for place in ("retries", "scheduled", "morgue"):
        answer = web.get(f"/{place}/2026-01-01T00:00:00Z%7Cab%2F%2Fc%0d%0aX:y")
        assert (answer.status, answer["location"]) == (303, "/jobs/ab%2F%2Fc%0D%0AX%3Ay")


@pytest.mark.parametrize(
    "request_line",
    [
        "GET http://evil.example/queues HTTP/1.1",
        "GET http://127.0.0.1/queues HTTP/1.1",
        "GET * HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "CONNECT evil.example:443 HTTP/1.1",
        "GET  HTTP/1.1",
        "GET",
        "PRI * HTTP/2.0",
        "GET /ü HTTP/1.1",
    ],
)
def test_odd_request_lines_are_refused(web: Web, request_line: str) -> None:
    answer = web.raw(f"{request_line}\r\nHost: localhost\r\n\r\n".encode())
    assert answer.status in (400, 404, 405)


def test_what_is_not_http_is_refused(web: Web) -> None:
    for data in (b"\x16\x03\x01\x02\x00\x01\x00\n\n", b"\0" * 100 + b"\r\n\r\n", b"{}\r\n\r\n"):
        assert web.raw(data).status == 400
    assert web.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 200_000).status == 400


@pytest.mark.parametrize("kind", ["", "text/plain", "multipart/form-data; boundary=x", "json"])
def test_a_form_of_another_type_is_refused(server: EmbeddedServer, web: Web, kind: str) -> None:
    push(server)
    body = f"token={web.get('/queues').token}&action=clear"
    headers = {"Origin": web.origin} | ({"Content-Type": kind} if kind else {})
    assert web.ask("POST", "/queues/default", body, headers).status == 415
    assert server.sizes["queued"] == 1


def test_a_form_has_a_limit(server: EmbeddedServer, web: Web) -> None:
    push(server)
    token = web.get("/queues").token
    assert web.post("/queues/default", {"token": token, "a": "x" * 10_000_000}).status == 413
    many = [("token", token), *[("bkey", "x")] * 100_000]
    assert web.post("/queues/default", many).status == 400
    half = [("token", token), ("action", "clear"), *[("key", "x" * 100)] * 1000]
    assert web.post("/retries", half).status == 400  # no keys, and no such action
    assert server.sizes["queued"] == 1


def test_a_form_in_chunks_has_the_same_limit(server: EmbeddedServer, web: Web) -> None:
    head = (
        f"POST /retries HTTP/1.1\r\nHost: 127.0.0.1:{web.port}\r\nOrigin: {web.origin}\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with web.connect() as sock:
        sock.sendall(head.encode())
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        for _ in range(17):
            sock.sendall(chunk)
        assert read_answer(sock).status == 413


@pytest.mark.parametrize(
    "fields",
    [
        {"action": "retry", "key": "nonsense"},
        {"action": "retry", "key": "|"},
        {"action": "retry", "key": "2026-01-01T00:00:00Z"},
        {"action": "retry", "key": "\0|\0"},
        {"action": "explode", "key": "all"},
        {"action": "\0ü" * 1000, "key": "all"},
        {"key": "all"},
    ],
)
def test_forms_without_sense_are_refused(
    server: EmbeddedServer, web: Web, fields: dict[str, str]
) -> None:
    fail(server, ValueError("no"))
    token = web.get("/retries").token
    for path in ("/retries", "/scheduled", "/morgue"):
        assert web.post(path, {"token": token, **fields}).status == 400
    assert server.sizes["retries"] == 1


def test_posts_to_pages_without_forms_are_refused(server: EmbeddedServer, web: Web) -> None:
    push(server)
    form = {"token": web.get("/queues").token, "action": "clear"}
    for path in ("/", "/queues", "/search", "/stats", "/health", "/static/page.css"):
        assert web.post(path, form).status == 405
    assert web.post("/nothing", form).status == 404


def test_a_form_goes_back_to_a_page_of_ours_only(server: EmbeddedServer, web: Web) -> None:
    push(server)
    form = {"token": web.get("/queues").token, "action": "pause"}
    for referer, back in (
        (f"{web.origin}/queues?page=2&count=50", "/queues?page=2&count=50&done="),
        ("http://evil.example/queues?page=2", "/queues/default?done="),
        (f"{web.origin}//evil.example/", "/queues/default?done="),
        (f"{web.origin}/\\evil.example/", "/queues/default?done="),
        (f"{web.origin}@evil.example/", "/queues/default?done="),
        ("//[", "/queues/default?done="),
        (f"{web.origin}/busy?a=%0d%0aX", "/busy?a=%0d%0aX&done="),
    ):
        sent = web.post("/queues/default", form, Referer=referer)
        assert sent.status == 303
        assert sent["location"].startswith(back)


def test_a_notice_cannot_be_made_by_a_link(web: Web) -> None:
    for name in ("done", "notice", "message"):
        assert "pay here" not in web.get(f"/queues?{name}=pay%20here").text


# Slow and many.


def test_a_client_that_sends_half_a_request_is_cut(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faktory.server.web.run.READ_TIMEOUT", 0.3)
    for sent in (b"", b"GET / HTTP/1.1\r\nHost: local"):
        with web.connect() as sock:
            sock.sendall(sent)
            assert _rest(sock) == b""
    with web.connect() as sock:  # the second request of a connection
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea")
        assert _rest(sock).endswith(b'{"status":"up"}')


def test_a_client_that_sends_half_a_form_is_answered(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faktory.server.web.security.READ_TIMEOUT", 0.3)
    head = (
        f"POST /retries HTTP/1.1\r\nHost: 127.0.0.1:{web.port}\r\nOrigin: {web.origin}\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\nhalf"
    )
    assert web.raw(head.encode()).status == 408


def test_a_client_that_reads_nothing_is_cut(
    server: EmbeddedServer,
    web: Web,
    monkeypatch: pytest.MonkeyPatch,
    wait_until: Callable[..., object],
) -> None:
    monkeypatch.setattr("faktory.server.web.run.WRITE_TIMEOUT", 0.3)
    for _ in range(10):
        push(server, "x" * 300)
    connections = web.runner._server.server_state.connections
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", web.port))
        request = b"GET /queues/default HTTP/1.1\r\nHost: localhost\r\n\r\n"
        wait_until(lambda: connections)
        with suppress(OSError):
            while True:
                sock.sendall(request * 100)
    wait_until(lambda: not connections)


def test_connections_have_a_limit_and_the_job_port_is_none_of_it(
    server: EmbeddedServer, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faktory.server.web.run.MAX_CONNECTIONS", 3)
    socks = [web.connect() for _ in range(3)]
    for sock in socks:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert read_answer(sock).status == 200
    with web.connect() as sock:
        assert _rest(sock) == b""
    push(server)
    for sock in socks:
        sock.close()


def test_clients_that_do_not_agree_on_tls_are_cut_and_counted(
    server: EmbeddedServer, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faktory.server.web.run.MAX_CONNECTIONS", 3)
    monkeypatch.setattr("faktory.server.web.run.READ_TIMEOUT", 1.0)
    with serving(application(server), *map(str, certificate)) as web:
        silent = [web.connect() for _ in range(3)]
        with web.connect() as sock:
            assert _rest(sock) == b""  # one too many
        for sock in silent:
            assert _rest(sock) == b""  # too slow
            sock.close()
        context = ssl.create_default_context(cafile=str(certificate[0]))
        with context.wrap_socket(web.connect(), server_hostname="127.0.0.1") as secure:
            secure.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert read_answer(secure).status == 200


def test_a_file_is_sent_once(web: Web) -> None:
    first = web.get("/static/page.css")
    assert (first.status, first["content-type"]) == (200, "text/css; charset=utf-8")
    again = web.get("/static/page.css", If_None_Match=first["etag"])
    assert (again.status, again.text) == (304, "")
    assert web.get("/")["cache-control"] == "no-store"


# Behind a proxy with a path.


def test_a_proxy_may_name_a_prefix(server: EmbeddedServer, web: Web) -> None:
    push(server)
    for path in ("/queues", "/faktory/queues"):  # taken away by the proxy, or not
        page = web.get(path, X_Script_Name="/faktory")
        assert page.status == 200
        assert 'href="/faktory/queues/default"' in page.text
        assert 'href="/faktory/static/page.css"' in page.text
    form = {"token": web.get("/queues").token, "action": "pause"}
    sent = web.post("/queues/default", form, X_Script_Name="/faktory/")
    assert sent["location"].startswith("/faktory/queues/default?done=")


@pytest.mark.parametrize(
    "prefix", ["//evil.example", "http://evil.example", '/"><script>', "/a b", "/" + "x" * 300, ""]
)
def test_a_prefix_that_is_not_a_path_is_ignored(web: Web, prefix: str) -> None:
    page = web.get("/queues", X_Script_Name=prefix)
    assert page.status == 200
    assert 'href="/static/page.css"' in page.text


# When the server goes.


def test_a_data_file_that_fails_leaves_a_page_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        EmbeddedServer(data=tmp_path / "jobs.db") as server,
        served(server) as web,
    ):
        push(server)
        stream = Stream(web, "/queues")
        token = web.get("/queues").token
        assert "default" in stream.event()

        def fails() -> None:
            raise OSError("no space left")

        assert server._durable is not None
        monkeypatch.setattr(server._durable.journal, "commit", fails)
        sent = web.ask_any("/queues/default", {"token": token, "action": "pause"})
        assert sent.status == 503
        assert "no space left" in sent.text
        while stream.event():
            pass
        stream.close()
        assert web.ask_any("/queues").status == 503
        assert web.ask_any("/health").status == 503


def _rest(sock: socket.socket) -> bytes:
    """Return what comes until the connection is closed."""
    data = b""
    try:
        while piece := sock.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data


# Behind a proxy.


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_proxy_on_this_machine_says_that_the_browser_used_tls(
    server: EmbeddedServer, host: str
) -> None:
    push(server)
    if host == "::1":
        try:
            socket.create_server((host, 0), family=socket.AF_INET6).close()
        except OSError as error:
            pytest.skip(f"needs IPv6: {error}")
    with serving(application(server), host=host) as web:
        headers = {"Host": "localhost", "X-Forwarded-Proto": "https"}
        form = {"token": web.get("/queues/default", **headers).token, "wid": "w", "signal": "quiet"}
        assert web.post("/busy", form, "https://localhost", **headers).status == 303
        assert web.post("/busy", form, "http://localhost", **headers).status == 403
