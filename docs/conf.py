"""How Sphinx builds these pages: `make docs`. A warning is an error there.

The blocks of code are run by the tests, and `tests/test_docs.py` says how each kind is.
"""

from __future__ import annotations

import os
from typing import Any

# The core in pure Python: the compiled one has the same docstrings, and no annotations.
os.environ["FAKTORY_IMPL"] = "python"

import faktory

project = "faktory-worker"
author = "the authors of faktory-worker"
project_copyright = author
version = release = faktory.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"faktory-worker {release}"
exclude_patterns = ["_build"]

myst_heading_anchors = 3
# In a docstring `this` is code.
default_role = "code"
autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True

# Nothing is looked up on the net, so names of Python's own library lead nowhere; type variables
# do not either, nor do the few classes of ours that a signature shows and nobody makes.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!faktory\.).*"),
    (r"py:class", r"faktory\.[\w.]+\.[A-Z]"),
    (r"py:class", r"faktory\.(jobs\.signature\.Signature|testing\.modes\.Switched|wire\..*)"),
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
    """Lead from where a class is defined to where it is public, and thus described."""
    name = node.get("reftarget", "").rpartition(".")[2]
    python = env.get_domain("py")
    for home in _HOMES:
        if node.get("refdomain") == "py" and f"{home}.{name}" in python.objects:
            where = (env, node["refdoc"], app.builder, "obj", f"{home}.{name}", node, text)
            return python.resolve_xref(*where)
    return None


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("missing-reference", _find)
