"""The package's page on PyPI: the README, whose relative links would lead nowhere there."""

from __future__ import annotations

import email
import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import pytest

import faktory

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text("utf-8")
URL = "https://github.com/someone/faktory-worker"
VARIABLES = ("FAKTORY_PROJECT_URL", "GITHUB_SERVER_URL", "GITHUB_REPOSITORY")

pytestmark = pytest.mark.skipif(
    not (PROJECT / "setup.py").exists(), reason="setup.py is not beside these tests"
)


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("faktory_setup", PROJECT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "tag", lambda: "v1.2.3")
    monkeypatch.chdir(tmp_path)
    return module


def targets(page: str) -> list[str]:
    """Return what the links and pictures of a rendered page lead to."""
    found: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(value or "" for name, value in attrs if name in ("href", "src", "srcset"))

    Links().feed(page)
    return found


@pytest.mark.parametrize("url", [URL, ""])
def test_the_rendered_page_has_no_relative_target(setup, url):
    render = pytest.importorskip("readme_renderer.markdown", reason="needs readme-renderer").render
    page = render(setup.long_description(README, url))
    assert page is not None
    assert len(page) > 3000
    links = targets(page)
    places = {f"#{each}" for each in re.findall(r'id="([^"]+)"', page)}  # of headings
    assert [each for each in links if not urlsplit(each).scheme and each not in places] == []
    assert any(each.startswith(URL) for each in links) is bool(url)
    assert "](" not in re.sub(r"(?s)<pre.*?</pre>|<code.*?</code>", "", page)


def test_with_an_address_links_and_pictures_are_pinned_to_the_tag(setup):
    text = setup.long_description(
        "[a](docs/a.md#b), [c](https://c.d), [e](#f)\n![g](docs/g.png)\n"
        '[![h](h.svg)](docs/)\n<a href="i.md"><img width="9" src="j.png"></a>\n'
        "```python\nk = l[m](n)\n```\n",
        URL,
    )
    files, pictures = f"{URL}/blob/v1.2.3", f"{URL}/raw/v1.2.3"
    assert text == (
        f"[a]({files}/docs/a.md#b), [c](https://c.d), [e]({files}/README.md#f)\n"
        f"![g]({pictures}/docs/g.png)\n"
        f"[![h]({pictures}/h.svg)]({files}/docs/)\n"
        f'<a href="{files}/i.md"><img width="9" src="{pictures}/j.png"></a>\n'
        "```python\nk = l[m](n)\n```\n"
    )


def test_without_an_address_links_are_text_and_pictures_are_left_out(setup):
    text = setup.long_description(
        "[a `b`](docs/a.md), [c](https://c.d)\n![g](docs/g.png)\n![h](https://h.i/j.png)\n"
        '<a href="i.md">k</a><img src="j.png">\n```python\nk = l[m](n)\n```\n',
        "",
    )
    assert text == (
        "a `b`, [c](https://c.d)\n\n![h](https://h.i/j.png)\nk\n```python\nk = l[m](n)\n```\n"
    )


def test_the_address_is_that_of_the_variable_else_of_the_public_ci(setup, monkeypatch):
    assert setup.project_url() == ""
    assert setup.project_urls("") == {}
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    assert setup.project_url() == ""
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/faktory-worker")
    assert setup.project_url() == URL
    monkeypatch.setenv("FAKTORY_PROJECT_URL", "https://example.org/ours.git/")
    assert setup.project_url() == "https://example.org/ours"
    assert setup.project_urls(URL) == {
        "Homepage": URL,
        "Documentation": f"{URL}/blob/v1.2.3/docs/index.md",
        "Source": URL,
        "Issues": f"{URL}/issues",
        "Changelog": f"{URL}/blob/v1.2.3/CHANGELOG.md",
    }


def test_an_sdist_keeps_the_address_of_its_own_build(setup, monkeypatch, tmp_path):
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    monkeypatch.setenv("GITHUB_REPOSITORY", "a-user/of-the-package")
    (tmp_path / "PKG-INFO").write_text("Name: faktory-worker\n")
    assert setup.project_url() == ""
    (tmp_path / "PKG-INFO").write_text(f"Project-URL: Issues, x\nProject-URL: Source, {URL}\n")
    assert setup.project_url() == URL


def test_an_address_that_is_none_fails_the_build(setup, monkeypatch):
    monkeypatch.setenv("FAKTORY_PROJECT_URL", "someone/faktory-worker")
    with pytest.raises(SystemExit) as stopped:
        setup.project_url()
    assert stopped.value.code == (
        "faktory-worker: FAKTORY_PROJECT_URL is 'someone/faktory-worker', which is not an address. "
        "Write it like https://github.com/OWNER/NAME."
    )


@pytest.mark.parametrize("url", [URL, ""])
def test_the_metadata_has_the_page_and_the_addresses(tmp_path, url):
    code = "from setuptools import build_meta as b; b.prepare_metadata_for_build_wheel({!r})"
    project = tmp_path / "project"
    (project / "faktory").mkdir(parents=True)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "faktory/__init__.py"):
        shutil.copy(PROJECT / name, project / name)
    environ = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    if url:
        environ["FAKTORY_PROJECT_URL"] = url
    done = subprocess.run(
        [sys.executable, "-c", code.format(str(tmp_path))],
        cwd=project,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    (folder,) = tmp_path.glob("*.dist-info")
    metadata = email.message_from_bytes((folder / "METADATA").read_bytes())
    labels = [each.split(", ")[0] for each in metadata.get_all("Project-URL", [])]
    expected = ["Homepage", "Documentation", "Source", "Issues", "Changelog"] if url else []
    assert sorted(labels) == sorted(expected)
    assert metadata["Author"] == "faktory-worker contributors"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "## Why this one" in str(metadata.get_payload())
    assert (f"{url}/blob/v" in str(metadata.get_payload())) is bool(url)
    assert not {"test", "check", "docs", "dev"} & set(metadata.get_all("Provides-Extra"))


@pytest.mark.parametrize(
    ("commit", "revision"), [("0123abc", "0123abc"), ("", f"v{faktory.__version__}")]
)
def test_read_the_docs_links_the_commit_that_it_builds(monkeypatch, commit, revision):
    pytest.importorskip("docutils")
    monkeypatch.setenv("FAKTORY_IMPL", faktory.implementation)  # which conf.py sets
    monkeypatch.setenv("FAKTORY_PROJECT_URL", URL)
    monkeypatch.setenv("READTHEDOCS_GIT_COMMIT_HASH", commit)
    conf = runpy.run_path(str(PROJECT / "docs" / "conf.py"))
    assert conf["html_theme_options"]["source_branch"] == revision
    link = conf["_link_repository"]("[a file](../SECURITY.md)")
    assert link == f"[a file]({URL}/blob/{revision}/SECURITY.md)"
