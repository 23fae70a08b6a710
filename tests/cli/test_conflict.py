from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import faktory
from faktory.cli import conflict


def test_there_is_no_warning_without_the_other_package(monkeypatch, capsys):
    monkeypatch.setattr(conflict, "OTHER", "a-distribution-that-nobody-has")
    assert conflict.find() is None
    conflict.warn()
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def run(tmp_path):
    """`run(module, *words)`: run a command with the other package installed."""
    info = tmp_path / "faktory-1.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faktory\nVersion: 1.0.0\n")
    root = str(Path(faktory.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([root, str(tmp_path)])}
    return lambda *command: subprocess.run(
        [sys.executable, "-m", *command], cwd=tmp_path, env=env, capture_output=True, text=True
    )


def test_the_doctor_reports_it_once(run):
    done = run("faktory", "doctor", "--url", "tcp://127.0.0.1:1")
    assert (done.stdout + done.stderr).count("faktory 1.0.0 is installed beside") == 1


@pytest.mark.parametrize(
    "command", [("faktory", "server", "--bind", "nonsense"), ("faktory.cli.worker", "-r", "gone")]
)
def test_each_command_warns_of_the_other_package_and_names_the_remedy(run, command):
    done = run(*command)
    warning, _, rest = done.stderr.partition("\n")
    assert "warning: the package faktory 1.0.0 is installed beside faktory-worker" in warning
    assert "pip uninstall faktory, then pip install --force-reinstall" in warning
    assert rest  # and the command goes on
