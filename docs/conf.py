"""Configure Sphinx, which builds these pages with `make docs`. A warning is an error there.

The tests run the code blocks; `tests/test_docs.py` describes how.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from docutils import nodes

# The pure core: the compiled one has the same docstrings, but no annotations.
os.environ["FAKTORY_IMPL"] = "python"

import faktory

project = "faktory-worker"
author = "faktory-worker contributors"
project_copyright = author
version = release = faktory.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
html_theme = "furo"
html_title = f"faktory-worker {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_search_scorer = str(Path(__file__).parent / "_static" / "search.js")
exclude_patterns = ["_build"]

copybutton_selector = "div:not(.highlight-output) > div.highlight pre"

myst_heading_anchors = 3
# In a docstring, `this` means code.
default_role = "code"
autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_typehints = "both"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
maximum_signature_line_length = 88
autodoc_preserve_defaults = True

# There is no intersphinx, so names of the standard library are unresolved; so are type variables
# and the few classes that appear in signatures but are not documented.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!faktory\.).*"),
    (r"py:class", r"faktory\.[\w.]+\.[A-Z]"),
    (r"py:class", r"faktory\.(jobs\.signature\.Signature|testing\.modes\.Switched|wire\..*)"),
    (r"py:class", r"faktory\.server\.(state\.(Timing|ServerState)|web\.security\.Guard)"),
    (r"py:class", r"faktory\.worker\.manager\.JobTable"),
    (r"py:class", r"faktory\.outbox\.database\.\w+"),
    (r"py:class", r"faktory\.[\w.]+\._\w+|faktory\.jobs\.message\.PushedJob"),
]

_HOMES = (
    "faktory",
    "faktory.jobs",
    "faktory.testing",
    "faktory.server",
    "faktory.worker",
    "faktory.proto",
)


def _find(app: Any, env: Any, node: Any, text: Any) -> Any:
    """Resolve a reference to a class by its module into its public, documented name."""
    name = node.get("reftarget", "").rpartition(".")[2]
    python = env.get_domain("py")
    for home in _HOMES:
        if node.get("refdomain") == "py" and f"{home}.{name}" in python.objects:
            where = (env, node["refdoc"], app.builder, "obj", f"{home}.{name}", node, text)
            return python.resolve_xref(*where)
    return None


def _repository() -> str:
    """Return the repository's address as setup.py knows it, or "" where it is unknown."""
    server, name = (os.environ.get(f"GITHUB_{each}", "") for each in ("SERVER_URL", "REPOSITORY"))
    url = os.environ.get("FAKTORY_PROJECT_URL", "").strip() or (
        f"{server}/{name}" if server and name else os.environ.get("READTHEDOCS_GIT_CLONE_URL", "")
    )
    return url.rstrip("/").removesuffix(".git")


ROOT = Path(__file__).parent.parent
REPOSITORY = _repository()
# Read the Docs builds branches, too, whose version has no tag yet.
REVISION = os.environ.get("READTHEDOCS_GIT_COMMIT_HASH") or f"v{release}"
if REPOSITORY:
    html_theme_options = {
        "source_repository": REPOSITORY,
        "source_branch": REVISION,
        "source_directory": "docs/",
        "top_of_page_buttons": ["view"],  # neither a tag nor a commit can be edited
    }

# [text](../ARCHITECTURE.md): a file of the repository that is not one of these pages.
_FILE = re.compile(r"(?<!!)\[([^\]]+)\]\((?:\.\./)?((?!docs/)[\w./-]+\.(?:md|toml))\)")


def _link_repository(text: str) -> str:
    """Link files beside the pages in the repository; where that is unknown, a link is its text."""

    def replaced(found: re.Match[str]) -> str:
        text, target = found.groups()
        if not found[0].count("(../") or not (ROOT / target).exists():
            return found[0]
        return f"[{text}]({REPOSITORY}/blob/{REVISION}/{target})" if REPOSITORY else text

    link = f"[Source, issues and releases]({REPOSITORY})" if REPOSITORY else ""
    return _FILE.sub(replaced, text).replace("<!-- repository -->", link)


def _read(_app: Any, _name: str, source: list[str]) -> None:
    """Prepare a page before it is parsed."""
    source[0] = _link_repository(source[0])


def _list_arguments(*event: Any) -> None:
    """Make fields of what stands below `Args:`. Not napoleon: it takes `Text: more` for a type."""
    lines = event[-1]
    if "Args:" in lines:
        begin = lines.index("Args:")
        entry = re.compile(r"    (\w+): ")
        lines[begin:] = [entry.sub(r":param \1: ", line) for line in lines[begin + 1 :]]


def _mark_short(_app: Any, doctree: nodes.document, _name: str) -> None:
    """Mark code whose words are short, and are not broken: on a phone, or where there is room."""
    for node in doctree.findall(nodes.literal):
        longest = max(map(len, node.astext().split()), default=0)
        if longest <= 28:
            node["classes"].append("narrow" if longest <= 17 else "wide")


def setup(app: Any) -> None:
    """Register what these pages need beside the extensions; Sphinx calls this."""
    app.connect("missing-reference", _find)
    app.connect("source-read", _read)
    app.connect("autodoc-process-docstring", _list_arguments)
    app.connect("doctree-resolved", _mark_short)
