"""Workers as programs: `opentelemetry-instrument faktory-worker`, and one that reports errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import pytest

import faktory
from faktory import Client
from faktory.server import EmbeddedServer

BIN = Path(sys.executable).parent
INSTRUMENT = BIN / "opentelemetry-instrument"
WORKER = BIN / "faktory-worker"
REAL = os.environ.get("FAKTORY_URL")  # a test has it no more

PROGRAM = """
import faktory

@faktory.job(queue={queue!r}, retry=0)
def work(number):
    if number == 2:
        raise ValueError("the argument was secret")
"""

SENTRY = """
import json, os
import sentry_sdk
from sentry_sdk.transport import Transport
from faktory.contrib.sentry import FaktoryIntegration

class Printed(Transport):
    def capture_envelope(self, envelope):
        if event := envelope.get_event():
            print("EVENT", json.dumps([event["tags"], event["exception"]["values"][0]["type"]]))

sentry_sdk.init(
    "http://key@127.0.0.1:1/1", transport=Printed, integrations=[FaktoryIntegration()],
    auto_enabling_integrations=False,
)
"""


@pytest.fixture(params=["embedded", "real"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "embedded":
        with EmbeddedServer() as server:
            yield server.url
    elif REAL:
        yield REAL
    else:
        pytest.skip("needs a real Faktory server: set FAKTORY_URL")


def run_worker(
    tmp_path: Path, url: str, program: str, *command: str | Path, **variables: str
) -> str:
    """Push two jobs, of which the second fails, and run a worker until they are done."""
    queue = f"contrib-{uuid4().hex[:12]}"
    (tmp_path / "app.py").write_text(program + PROGRAM.format(queue=queue))
    with Client(url) as client:
        for number in (1, 2):
            custom = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
            client.push(
                {"jobtype": "work", "args": [number], "queue": queue, "retry": 0, "custom": custom}
            )
    done = subprocess.run(
        [*command, WORKER, "-r", "app", "-q", queue, "--burst", "-c", "1"],
        cwd=tmp_path,
        env={**os.environ, "FAKTORY_URL": url, "PYTHONWARNINGS": "ignore", **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def spans_in(text: str) -> list[dict[str, object]]:
    """Return the JSON objects that the exporter to the console has printed."""
    decoder = json.JSONDecoder()
    found = []
    while (start := text.find("{")) >= 0:
        span, end = decoder.raw_decode(text[start:])
        found.append(span)
        text = text[start + end :]
    return found


@pytest.mark.skipif(
    not (find_spec("opentelemetry") and INSTRUMENT.exists()), reason="needs opentelemetry-distro"
)
def test_opentelemetry_instrument_traces_a_worker(tmp_path: Path, url: str) -> None:
    (entry,) = entry_points(group="opentelemetry_instrumentor", name="faktory")
    assert entry.value == "faktory.contrib.opentelemetry:FaktoryInstrumentor"
    printed = run_worker(
        tmp_path,
        url,
        "",
        INSTRUMENT,
        OTEL_TRACES_EXPORTER="console",
        OTEL_METRICS_EXPORTER="none",
        OTEL_LOGS_EXPORTER="none",
    )
    spans = spans_in(printed)
    assert Counter(str(span["name"]) for span in spans) == {"process work": 2}
    assert {json.dumps(span["parent_id"]) for span in spans} == {"null"}
    assert [str(span["links"]).count("b" * 16) for span in spans] == [1, 1]
    assert [span["status"]["status_code"] for span in spans] == ["UNSET", "ERROR"]  # type: ignore[index]


@pytest.mark.skipif(not find_spec("sentry_sdk"), reason="needs sentry-sdk")
def test_a_worker_reports_an_error_once_with_the_default_integrations(
    tmp_path: Path, url: str
) -> None:
    lines = run_worker(tmp_path, url, SENTRY).splitlines()
    (event,) = [json.loads(line[6:]) for line in lines if line.startswith("EVENT")]
    tags, error = event
    assert (tags["jobtype"], tags["attempt"], error) == ("work", 1, "ValueError")


def test_importing_faktory_imports_neither() -> None:
    code = "import sys, faktory, faktory.jobs, faktory.worker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert faktory.__name__ in loaded
    assert not {name for name in loaded if name.startswith(("opentelemetry", "sentry_sdk"))}


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [("opentelemetry", "opentelemetry", "otel"), ("sentry", "sentry_sdk", "sentry")],
)
def test_without_the_library_the_error_has_the_remedy(
    module: str, library: str, extra: str
) -> None:
    code = (
        f"import sys; sys.modules[{library!r}] = None\n"
        f"try:\n    import faktory.contrib.{module}\n"
        "except ImportError as error:\n    print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert f"pip install 'faktory-worker[{extra}]'" in said
