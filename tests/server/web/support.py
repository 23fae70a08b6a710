"""Serve the pages of a server on a port, and look at them as a browser or an attacker does."""

from __future__ import annotations

import html
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from threading import Thread
from typing import Any
from urllib.parse import urlencode

import pytest

from faktory import Client
from faktory.server import EmbeddedServer

pytest.importorskip("starlette", reason="needs the extra web")
pytest.importorskip("uvicorn", reason="needs the extra web")
pytest.importorskip("jinja2", reason="needs the extra web")

from faktory.server.web import application
from faktory.server.web.run import Runner

CSP = {
    "default-src": {"'none'"},
    "form-action": {"'self'"},
    "base-uri": {"'none'"},
    "frame-ancestors": {"'none'"},
    "script-src": {"'self'"},
    "style-src": {"'self'"},
}


@dataclass
class Answer:
    """An answer of which all headers that each one must have are there."""

    status: int
    headers: list[tuple[str, str]]
    text: str

    def __getitem__(self, name: str) -> str:
        """Return a header, or "" if it is not there."""
        return next((value for each, value in self.headers if each.lower() == name), "")

    @property
    def token(self) -> str:
        """The token of the first form."""
        return self.values("token")[0]

    def values(self, name: str) -> list[str]:
        """Return the values of all inputs of this name, of those for all jobs aside."""
        inputs = [
            dict(_ATTRIBUTE.findall(each)) for each in re.findall(r"<input\b[^>]*>", self.text)
        ]
        values = [html.unescape(each["value"]) for each in inputs if each.get("name") == name]
        return [value for value in values if value != "all"]


_ATTRIBUTE = re.compile(r'([\w-]+)="([^"]*)"')


class Web:
    """The pages on a port, without a browser."""

    def __init__(self, port: int, runner: Runner, host: str = "127.0.0.1") -> None:
        self.port = port
        self.runner = runner
        self.host = host
        self.origin = f"http://127.0.0.1:{port}"

    def connect(self) -> socket.socket:
        """Return a new connection."""
        return socket.create_connection((self.host, self.port), 20)

    def get(self, path: str, **headers: str) -> Answer:
        """Get a page; `_` in the name of a header is `-`."""
        return self.ask("GET", path, headers=headers)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request, and return its answer, which no error has made."""
        connection = HTTPConnection(self.host, self.port, timeout=20)
        try:
            names = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
            connection.request(method, path, body, names)
            return checked(connection.getresponse())
        finally:
            connection.close()

    def ask_any(self, path: str, form: dict[str, str] | None = None) -> Answer:
        """Get a page, or send a form; the answer may be that there is no server any more."""
        connection = HTTPConnection(self.host, self.port, timeout=20)
        try:
            headers = {"Content-Type": "application/x-www-form-urlencoded", "Origin": self.origin}
            if form is None:
                connection.request("GET", path)
            else:
                connection.request("POST", path, urlencode(form), headers)
            response = connection.getresponse()
            return Answer(response.status, response.getheaders(), response.read().decode())
        finally:
            connection.close()

    def raw(self, request: bytes) -> Answer:
        """Send bytes, and read one answer."""
        with self.connect() as sock:
            sock.sendall(request)
            return read_answer(sock)

    def post(self, path: str, fields: Any, origin: str | None = "", **headers: str) -> Answer:
        """Send a form; `origin` is that of the page itself, if it is not given."""
        given = {"Content-Type": "application/x-www-form-urlencoded", **headers}
        if origin is not None:
            given["Origin"] = origin or self.origin
        return self.ask("POST", path, urlencode(fields), given)

    def act(self, path: str, fields: dict[str, Any], page: str | None = None) -> Answer:
        """Send a form as its page does, follow to the next page, and return that."""
        token = self.get(page or path).token
        pairs = [("token", token)]
        for name, value in fields.items():
            pairs += [(name, each) for each in ([value] if isinstance(value, str) else value)]
        done = self.post(path, pairs, Referer=f"{self.origin}{page or path}")
        assert done.status == 303, done
        return self.get(done["location"])


def read_answer(sock: socket.socket) -> Answer:
    """Read an answer from a connection."""
    response = HTTPResponse(sock)
    try:
        response.begin()
        return checked(response)
    finally:
        response.close()


def checked(response: HTTPResponse) -> Answer:
    """Read an answer, and check what is true of each one."""
    headers = response.getheaders()
    answer = Answer(response.status, headers, response.read().decode())
    check_headers(answer)
    return answer


def check_headers(answer: Answer) -> None:
    """Check what is true of each answer."""
    assert answer.status < 500, answer
    policy = {}
    for directive in answer["content-security-policy"].split(";"):
        name, *values = directive.split()
        policy[name] = set(values)
    assert {name: policy.get(name) for name in CSP} == CSP
    assert not any("unsafe" in value for values in policy.values() for value in values)
    assert answer["x-content-type-options"] == "nosniff"
    assert answer["referrer-policy"] == "same-origin"
    assert not [name for name, _ in answer.headers if name.lower().startswith("access-control")]
    assert not answer["server"]


def served(server: EmbeddedServer, **options: Any) -> AbstractContextManager[Web]:
    """Serve the pages of a server."""
    return serving(application(server, **options))


@contextmanager
def serving(app: Any, *tls: str, host: str = "127.0.0.1") -> Iterator[Web]:
    """Serve an application; `tls` are the files of a certificate and of its key."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, 0), family=family)
    port = sock.getsockname()[1]
    runner = Runner(app, sock, *tls)
    thread = Thread(target=runner.run, name="web")
    thread.start()
    try:
        yield Web(port, runner, host)
    finally:
        runner.stop()
        thread.join(10)
        assert not thread.is_alive()


class Stream:
    """A page as a stream of events."""

    def __init__(self, web: Web, path: str) -> None:
        self.sock = web.connect()
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
        self.sock.sendall(request.encode())
        self.response = HTTPResponse(self.sock)
        self.response.begin()
        self.headers = self.response.getheaders()

    def event(self) -> str:
        """Return the data of the next event; "" when the stream has ended."""
        lines: list[str] = []
        while line := self.response.readline().decode():
            if line.startswith("data: "):
                lines.append(line[6:-1])
            elif line == "\n" and lines:
                return "\n".join(lines)
        return ""

    def until(self, text: str) -> str:
        """Return the next event with a text in it."""
        while text not in (event := self.event()):
            assert event, f"the stream has ended without {text!r}"
        return event

    def close(self) -> None:
        """Close the connection."""
        self.response.close()
        self.sock.close()


def push(server: EmbeddedServer, *args: object, **fields: Any) -> str:
    """Push a job of the type `work`; return its jid."""
    with Client(server.url) as client:
        return client.push({"jobtype": "work", "args": list(args), **fields})


def fail(server: EmbeddedServer, error: Exception, *args: object, **fields: Any) -> str:
    """Push a job, fetch it and fail it; return its jid."""
    queue = fields.setdefault("queue", "failing")
    with Client(server.url) as client:
        jid = client.push({"jobtype": "work", "args": list(args), **fields})
        job = client.fetch(queue)
        assert job is not None
        assert job["jid"] == jid
        client.fail(jid, error)
        return jid


WaitUntil = Callable[..., object]
