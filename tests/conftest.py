"""Fixtures for the tests of several rooms, and the header of a run.

Fixtures for one room are in that room's conftest.py.
"""

from __future__ import annotations

import gc
import importlib
import os
import platform
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from faktory.proto import implementation_info

from . import support

if TYPE_CHECKING:
    from .contrib.postgres import Postgres

TESTS = Path(__file__).parent

# Folders and files of tests that do not depend on the loaded core. The tests of the other files run
# each line of the core that these run, and each call of the core in faktory/.
ONCE = [
    "contract",
    "contrib",
    "outbox",
    "proto",
    "replay",
    "server",
    "soak/test_asyncio.py",
    "soak/test_django.py",
    "soak/test_durability.py",
    "soak/test_outbox.py",
    "aio/test_contract_again.py",
    "aio/test_faults_again.py",
    "aio/test_parity.py",
    "cli/test_any_moment.py",
    "cli/test_backlog.py",
    "cli/test_burst.py",
    "cli/test_config.py",
    "cli/test_configured.py",
    "cli/test_conflict.py",
    "cli/test_datafile.py",
    "cli/test_doctor.py",
    "cli/test_doctor_core.py",
    "cli/test_ending.py",
    "cli/test_health.py",
    "cli/test_health_soak.py",
    "cli/test_hints.py",
    "cli/test_job_lines.py",
    "cli/test_live.py",
    "cli/test_loading.py",
    "cli/test_log_faults.py",
    "cli/test_logs.py",
    "cli/test_max_jobs.py",
    "cli/test_odd_answers.py",
    "cli/test_output.py",
    "cli/test_periodic.py",
    "cli/test_printing.py",
    "cli/test_processes.py",
    "cli/test_program.py",
    "cli/test_reload.py",
    "cli/test_status_line.py",
    "cli/test_signals.py",
    "cli/test_streams.py",
    "cli/test_terminal.py",
    "cli/test_title.py",
    "cli/test_tools.py",
    "cli/test_top.py",
    "cli/test_web.py",
    "cli/test_words.py",
    "cli/test_worker_queues.py",
    "cli/test_writer.py",
    "client/test_exchange.py",
    "client/test_fork.py",
    "client/test_greenlets.py",
    "client/test_sockets.py",
    "client/test_waiting.py",
    "jobs/test_argument_types.py",
    "jobs/test_backoff.py",
    "jobs/test_declared_twice.py",
    "jobs/test_docs.py",
    "jobs/test_elsewhere.py",
    "jobs/test_periodic_years.py",
    "jobs/test_policy.py",
    "jobs/test_retries.py",
    "jobs/test_typing_samples.py",
    "testing/test_async_jobs.py",
    "testing/test_docs.py",
    "testing/test_memory_run.py",
    "testing/test_plugin.py",
    "wire/test_address.py",
    "wire/test_log.py",
    "wire/test_recovery.py",
    "worker/test_async_jobs.py",
    "worker/test_async_loop.py",
    "worker/test_async_stop.py",
    "worker/test_burst.py",
    "worker/test_children.py",
    "worker/test_children_end.py",
    "worker/test_closed_descriptors.py",
    "worker/test_counts.py",
    "worker/test_delivery.py",
    "worker/test_events.py",
    "worker/test_fork_server.py",
    "worker/test_futures.py",
    "worker/test_handlers.py",
    "worker/test_health.py",
    "worker/test_heartbeat.py",
    "worker/test_interrupts.py",
    "worker/test_lifecycle.py",
    "worker/test_limits.py",
    "worker/test_manager.py",
    "worker/test_outage.py",
    "worker/test_queues.py",
    "worker/test_reservations.py",
    "worker/test_retry_faults.py",
    "worker/test_running_job.py",
    "worker/test_scheduler.py",
    "worker/test_signals.py",
    "worker/test_status.py",
    "worker/test_stopping.py",
    "worker/test_supervisor.py",
    "worker/test_worker_log.py",
    "worker/test_worker_retries.py",
    "test_benchmarks.py",
    "test_build.py",
    "test_docs.py",
    "test_errors_page.py",
    "test_examples.py",
    "test_exceptions.py",
    "test_import.py",
    "test_layers.py",
    "test_makefile.py",
    "test_package_page.py",
    "test_reprs.py",
    "test_suite.py",
    "test_vocabulary.py",
]

# The duration of one example depends on the load of the machine.
settings.register_profile("faktory", deadline=None)
if os.environ.get("CI") != "true":  # there hypothesis loads its own deterministic profile
    settings.load_profile("faktory")


def pytest_addoption(parser: pytest.Parser) -> None:
    about = "skip the files of tests that do not depend on the core (ONCE in tests/conftest.py)"
    parser.addoption("--core-only", action="store_true", help=about)


def runs_once(path: Path) -> bool:
    """Return whether --core-only skips this folder or file."""
    inside = path.relative_to(TESTS)
    return any(each.as_posix() in ONCE for each in (inside, *inside.parents))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # False would overrule other hooks.
    return True if config.option.core_only and runs_once(collection_path) else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """Use one process with a real server: the tests count its jobs, and flush it."""
    return 0 if os.environ.get("FAKTORY_URL") else None


def pytest_report_header(config: pytest.Config) -> list[str]:
    info = implementation_info()
    url = os.environ.get("FAKTORY_URL", "").rpartition("@")[2]  # without its password
    files = list(TESTS.rglob("test_*.py"))
    skipped = sum(map(runs_once, files)) if config.option.core_only else 0
    return [
        f"tests: {len(files) - skipped} files, and {skipped} skipped that do not depend on the core"
        if skipped
        else f"tests: {len(files)} files",
        f"core: {info['implementation']} ({info['reason']}), Python {platform.python_version()}",
        f"real server: {url}"
        if url
        else "real server: none, so its tests are skipped (set FAKTORY_URL to one to play with)",
    ]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests have measured: `request.node.user_properties.append(("measured", line))`."""
    reports = [each for kind in ("passed", "failed") for each in terminalreporter.getreports(kind)]
    measured = sorted({dict(report.user_properties).get("measured", "") for report in reports})
    for line in filter(None, measured):
        terminalreporter.write_line(line)


def pytest_collection_finish() -> None:
    """Exclude the collected tests from garbage collections, which many tests start."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape lone surrogates that a test has logged: pytest-xdist cannot send them."""
    report = yield
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]
    return report


@pytest.fixture(scope="session", params=["python", "cython"])
def proto(request: pytest.FixtureRequest) -> ModuleType:
    """Each implementation of the core in turn."""
    if request.param == "python":
        return importlib.import_module("faktory._proto_py")
    try:
        return importlib.import_module("faktory._proto")
    except ModuleNotFoundError as error:
        # A core that is there and does not load must not be skipped.
        if error.name != "faktory._proto":
            raise
    if os.environ.get("CI") == "true" and not _pure_on_purpose():
        pytest.fail("the compiled core was not built, and CI has to test it")
    pytest.skip("the compiled core was not built")


def _pure_on_purpose() -> bool:
    asked_of_build = os.environ.get("FAKTORY_NO_EXTENSIONS", "").lower() not in ("", "0", "false")
    return asked_of_build or os.environ.get("FAKTORY_IMPL") == "python"


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """Let INT reach tests and commands if the shell has them ignore it: `make test &`."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def real_server_url() -> str:
    """The address of a real Faktory server, which the test may fill; to flush it, ask first
    whether FAKTORY_FLUSH_OK is set.
    """
    url = os.environ.get("FAKTORY_URL")
    if not url:
        pytest.skip("needs a real server: set FAKTORY_URL to the address of one to play with")
    return url


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., object]:
    """`wait_until(condition, timeout=20)`: call it until it is true, return what it returned."""
    return support.wait_until


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port where nothing listens; it is bound, so that no other process takes it."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture(scope="session")
def running_postgres(wait_until: Callable[..., object]) -> Iterator[Postgres]:
    """A PostgreSQL for all tests of this process, which make databases in it."""
    from .contrib import postgres  # wheels are tested without that folder

    with postgres.running(wait_until) as server:
        yield server


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody has signed, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl, to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    names = ["-subj", "/CN=faktory", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    return cert, key
