"""Configure Sphinx, which builds these pages with `make docs`. A warning is an error there.

The tests run the code blocks; `tests/test_docs.py` describes how.
"""

from __future__ import annotations

import os
from typing import Any

# The pure core: the compiled one has the same docstrings, but no annotations.
os.environ["FAKTORY_IMPL"] = "python"

import faktory

project = "faktory-worker"
author = "the authors of faktory-worker"
project_copyright = author
version = release = faktory.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"faktory-worker {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
exclude_patterns = ["_build"]

myst_heading_anchors = 3
# In a docstring, `this` means code.
default_role = "code"
autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
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


def setup(app: Any) -> None:
    """Register the resolver; Sphinx calls this."""
    app.connect("missing-reference", _find)
