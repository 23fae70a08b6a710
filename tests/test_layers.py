"""Who may import whom: the package reads downwards; an import that points up is an error, and so
is a circle of modules, inside one room, too.

Imports are read from the source, wherever they stand: in a function, under TYPE_CHECKING, in a
stub, in the Cython file, or as `import_module("...")`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

import faktory

ROOT = Path(faktory.__file__).parent

ROOMS = {
    "faktory.__main__": "faktory.__main__",
    "faktory.exceptions": "exceptions",
    "faktory.proto": "proto",
    "faktory._proto": "proto",
    "faktory._proto_py": "proto",
    "faktory._json": "proto",
    "faktory._exchange": "client",
    "faktory._exchange_py": "client",
}
"""The room of each module beside the folders; a folder is a room of its own name."""

BELOW = {
    "exceptions": "",
    "proto": "exceptions",
    "wire": "exceptions proto",
    "client": "exceptions proto wire",
    "aio": "exceptions proto wire client",
    "jobs": "exceptions proto wire client aio",
    "worker": "exceptions proto wire client aio jobs",
    "outbox": "exceptions proto wire client aio jobs",
    "server": "exceptions proto wire",
    "contrib": "exceptions proto wire client aio jobs worker outbox",
    "testing": "exceptions proto wire client aio jobs worker server",
    "cli": "exceptions proto wire client aio jobs worker server contrib",
    # The two that are in no room: the package itself names everything, each name imported when
    # it is first used, and `python -m faktory` hands over to the command line.
    "faktory": "exceptions proto wire client aio jobs worker server testing",
    "faktory.__main__": "cli",
}
"""What each room may import, itself aside."""

WITHOUT_A_SOCKET = {
    "faktory.client.bulk",
    "faktory.client.fork",
    "faktory.client.network",
    "faktory.client.pushes",
    "faktory.client.settings",
    "faktory.client.sockets",
    "faktory.client.tls",
    "faktory.client.waiting",
}
"""What `aio` may import of `client`: modules that hold no connection and block nowhere, but for
`tls.explain`, which it calls in a thread."""

MAY_IMPORT_THE_PACKAGE = {"testing", "contrib", "cli"}
"""Rooms that may say `from faktory import ...`: they see all, so it hides nothing."""

PRIVATE = {
    "faktory._proto": {"faktory.proto"},
    "faktory._proto_py": {"faktory.proto"},
    "faktory._json": {"faktory._proto", "faktory._proto_py"},
    "faktory._exchange": {"faktory.client.transport"},
    "faktory._exchange_py": {"faktory.client.transport"},
}
"""Modules with a closed circle of importers."""

PURE = {"exceptions", "proto", "wire"}
"""Rooms in which what is outside the process, and time, is passed in."""

IMPURE = {"asyncio", "selectors", "socket", "ssl", "subprocess", "threading", "time"}

READS_ENVIRONMENT = "faktory.proto"
"""The one pure module that may: for FAKTORY_IMPL."""


def complaints(root: Path) -> list[str]:
    """Return what the package in folder `root` (named faktory) breaks, a sentence each."""
    sources = _sources(root)
    found = []
    for path, module in sources:
        package = module if path.stem == "__init__" else module.rpartition(".")[0]
        tree = _parse(path)
        known = {name for _, name in sources}
        if _room(module) not in BELOW:
            found.append(f"{module} is in no room")
        else:
            targets = sorted(set(_imports(tree, package, known)))
            found += [text for target in targets for text in _judge(module, target)]
        if _room(module) in PURE and module != READS_ENVIRONMENT and _reads_environment(tree):
            found.append(f"{module} reads the environment")
        if path.stem == "__init__":
            found += _shadows(module, tree, known)
    return found


def circles(root: Path) -> list[str]:
    """Return each circle of modules that import each other in the package, as "a -> b -> a".

    For each module that is in one it is a shortest.
    """
    sources = _sources(root)
    graph: dict[str, set[str]] = {module: set() for _, module in sources}
    for path, module in sources:
        package = module if path.stem == "__init__" else module.rpartition(".")[0]
        targets = _imports(_parse(path), package, set(graph))
        graph[module].update(target for target in targets if target in graph)
        graph[module].discard(module)
    found: dict[frozenset[str], str] = {}
    for module in sorted(graph):
        if way := _way(graph, module):
            found.setdefault(frozenset(way), " -> ".join(way))
    return list(found.values())


def _way(graph: dict[str, set[str]], module: str) -> list[str] | None:
    """Return a shortest way from a module back to it."""
    ways, reached = [[module]], set()
    for way in ways:  # which grows: the shorter ways come first
        for target in sorted(graph[way[-1]] - reached):
            if target == module:
                return [*way, module]
            reached.add(target)
            ways.append([*way, target])
    return None


def _sources(root: Path) -> list[tuple[Path, str]]:
    sources = []
    for path in sorted(root.rglob("*")):
        if path.suffix in (".py", ".pyi", ".pyx", ".pxd"):
            parts = (root.name, *path.relative_to(root).with_suffix("").parts)
            sources.append((path, ".".join(parts).removesuffix(".__init__")))
    return sources


def _parse(path: Path) -> ast.Module:
    text = path.read_text()
    if path.suffix in (".py", ".pyi"):
        return ast.parse(text)
    # Cython's import lines are Python once cimport is import. What reads the
    # environment is written there as it is in Python.
    lines = re.findall(r"^[ \t]*((?:from +\S+ +)?c?import +(?:\([^)]*\)|[^\n#;]*))", text, re.M)
    lines += re.findall(r"\bos\.(?:environb?|getenvb?)\b", text)
    tree = ast.Module([], [])
    for line in lines:
        try:
            tree.body += ast.parse(re.sub(r"\bcimport\b", "import", line)).body
        except SyntaxError:
            continue  # a docstring's line that begins with "import"
    return tree


def _imports(tree: ast.Module, package: str, known: set[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), package)
            for alias in node.names:
                module = f"{base}.{alias.name}"
                yield module if module in known else base
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield _absolute(node.args[0].value, package)


def _absolute(name: str, package: str) -> str:
    tail = name.lstrip(".")
    if not (level := len(name) - len(tail)):
        return name
    base = ".".join(package.split(".")[: len(package.split(".")) - level + 1])
    return f"{base}.{tail}" if tail else base


def _room(module: str) -> str:
    return ROOMS.get(module) or (module.split(".")[1] if "." in module else module)


def _judge(module: str, target: str) -> Iterator[str]:
    here, there = _room(module), _room(target)
    if here in PURE and target.split(".")[0] in IMPURE:
        yield f"{module} imports {target}, which has to be passed in"
    if target.split(".")[0] != "faktory":
        return
    if target in PRIVATE and module not in {*PRIVATE[target], target}:
        yield f"{module} imports {target}, which is private"
    elif there == "faktory":
        if here not in MAY_IMPORT_THE_PACKAGE:
            yield f"{module} imports from the package itself, which names everything"
    elif there != here and there not in BELOW[here].split():
        yield f"{module} imports {target}, which is above it"
    elif (here, there) == ("aio", "client") and target not in WITHOUT_A_SOCKET:
        yield f"{module} imports {target}, which blocks"


def _reads_environment(tree: ast.Module) -> bool:
    names = {"environ", "environb", "getenv", "getenvb"}
    return any(
        (isinstance(node, ast.Attribute) and node.attr in names)
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and any(alias.name in names for alias in node.names)
        )
        for node in ast.walk(tree)
    )


def _shadows(package: str, tree: ast.Module, known: set[str]) -> Iterator[str]:
    """Yield public names that are submodules too: importing the submodule replaces the name.

    What is bound by `from . import name` is that submodule, and may be named in `__all__`.
    """
    named: set[str] = set()
    bound: set[str] = set()
    submodules: set[str] = set()
    for node in _outside_functions(tree):
        if isinstance(node, ast.ImportFrom):
            itself = node.level == 1 and not node.module
            names = {alias.asname or alias.name for alias in node.names}
            (submodules if itself else bound).update(names)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            named.update(re.findall(r"'(\w+)'", ast.unparse(node.value)))
    for name in sorted(bound | (named - submodules)):
        if f"{package}.{name}" in known and not name.startswith("_"):
            yield f"{package}.{name} is a public name, and {name} is a submodule"


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.ClassDef | ast.Lambda | ast.comprehension):
            yield from _outside_functions(child)


def test_no_import_points_up():
    found = complaints(ROOT)
    assert not found, "\n".join(found)


def test_no_modules_import_each_other_in_a_circle():
    found = circles(ROOT)
    assert not found, "\n".join(found)


def test_the_walk_sees_the_whole_package():
    modules = {module for _, module in _sources(ROOT)}
    assert {"faktory", "faktory._proto_py", "faktory._json", "faktory.exceptions"} <= modules
    assert "faktory.wire" in modules
    assert set(_imports(_parse(ROOT / "_proto_py.py"), "faktory", modules)) >= {"faktory._json"}


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        (
            "exceptions.py",
            "from .wire import address",
            "faktory.exceptions imports faktory.wire.address, which is above it",
        ),
        (
            "wire/address.py",
            "import faktory.client.pool",
            "faktory.wire.address imports faktory.client.pool, which is above it",
        ),
        (
            "wire/address.py",
            "def lazy():\n    from ..worker import Worker",
            "faktory.wire.address imports faktory.worker, which is above it",
        ),
        (
            "client/pool.py",
            "if TYPE_CHECKING:\n    from .. import jobs",
            "faktory.client.pool imports faktory.jobs, which is above it",
        ),
        (
            "client/pool.py",
            "import_module('..jobs', 'faktory.client')",
            "faktory.client.pool imports faktory.jobs, which is above it",
        ),
        (
            "worker/worker.py",
            "importlib.import_module('faktory.cli')",
            "faktory.worker.worker imports faktory.cli, which is above it",
        ),
        (
            "worker/worker.py",
            "from faktory.server import EmbeddedServer",
            "faktory.worker.worker imports faktory.server, which is above it",
        ),
        (
            "server/listener.py",
            "from ..client.transport import Transport",
            "faktory.server.listener imports faktory.client.transport, which is above it",
        ),
        (
            "testing/modes.py",
            "from ..cli import worker",
            "faktory.testing.modes imports faktory.cli, which is above it",
        ),
        (
            "jobs/definition.py",
            "from faktory import Client",
            "faktory.jobs.definition imports from the package itself, which names everything",
        ),
        (
            "__main__.py",
            "from .worker import Worker",
            "faktory.__main__ imports faktory.worker, which is above it",
        ),
        (
            "__init__.py",
            "from .cli.worker import main",
            "faktory imports faktory.cli.worker, which is above it",
        ),
        (
            "wire/session.py",
            "from .. import _proto_py",
            "faktory.wire.session imports faktory._proto_py, which is private",
        ),
        (
            "__init__.py",
            "from ._proto import ReplyParser",
            "faktory imports faktory._proto, which is private",
        ),
        (
            "wire/payload.py",
            "from .._json import dump",
            "faktory.wire.payload imports faktory._json, which is private",
        ),
        (
            "wire/session.py",
            "import time",
            "faktory.wire.session imports time, which has to be passed in",
        ),
        (
            "_proto.pyx",
            "cdef f():\n    from asyncio.protocols cimport Protocol",
            "faktory._proto imports asyncio.protocols, which has to be passed in",
        ),
        (
            "_proto.pyx",
            "from .wire cimport (\n    address,\n)",
            "faktory._proto imports faktory.wire.address, which is above it",
        ),
        ("_proto.pyx", "cdef f():\n    return os.environ", "faktory._proto reads the environment"),
        ("_json.py", "import os\nos.getenv('A')", "faktory._json reads the environment"),
        ("wire/address.py", "from os import environ", "faktory.wire.address reads the environment"),
        ("async/__init__.py", "", "faktory.async is in no room"),
        (
            "client/pool.py",
            "from ..aio import client",
            "faktory.client.pool imports faktory.aio.client, which is above it",
        ),
        (
            "aio/client.py",
            "from ..client.pool import Pool",
            "faktory.aio.client imports faktory.client.pool, which blocks",
        ),
        ("connection.py", "", "faktory.connection is in no room"),
        (
            "__init__.py",
            "def jobs(): ...",
            "faktory.jobs is a public name, and jobs is a submodule",
        ),
        (
            "__init__.py",
            "__all__ = ['Client', 'jobs']",
            "faktory.jobs is a public name, and jobs is a submodule",
        ),
        (
            "__init__.py",
            "if TYPE_CHECKING:\n    from .client.pool import acquire as jobs",
            "faktory.jobs is a public name, and jobs is a submodule",
        ),
        (
            "client/__init__.py",
            "pool: Pool = Pool()",
            "faktory.client.pool is a public name, and pool is a submodule",
        ),
    ],
)
def test_a_planted_violation_is_found(tmp_path, path, source, complaint):
    root = _innocent_package(tmp_path)
    (root / path).parent.mkdir(exist_ok=True)
    (root / path).write_text(dedent(source) + "\n")
    assert complaints(root) == [complaint]


@pytest.mark.parametrize(
    ("path", "source", "circle"),
    [
        (
            "client/pool.py",
            "if TYPE_CHECKING:\n    from . import Client",
            "faktory.client -> faktory.client.pool -> faktory.client",
        ),
        (
            "client/pool.py",
            "def lazy():\n    from .defaults import default_pool",
            "faktory.client.connections -> faktory.client.pool -> faktory.client.defaults -> "
            "faktory.client.connections",
        ),
        (
            "client/connections.py",
            "import faktory.client.defaults, faktory.client.pool",
            "faktory.client.connections -> faktory.client.defaults -> faktory.client.connections",
        ),
        (
            "exceptions.py",
            "from ._json import dump",
            "faktory._json -> faktory.exceptions -> faktory._json",
        ),
    ],
)
def test_a_planted_circle_is_found_and_named_as_a_whole(tmp_path, path, source, circle):
    root = _innocent_package(tmp_path)
    (root / path).write_text(dedent(source) + "\n")
    assert circles(root) == [circle]


def test_an_innocent_package_is_left_alone(tmp_path):
    assert complaints(_innocent_package(tmp_path)) == []
    assert circles(_innocent_package(tmp_path)) == []


def _innocent_package(folder: Path) -> Path:
    """Write a small package that touches each rule and breaks none."""
    sources = {
        "__init__.py": "__all__ = ['proto']\nfrom . import proto\ndef f(name):\n    jobs = name\n",
        "__main__.py": "from .cli import main\n",
        "exceptions.py": "import os\n",
        "_json.py": "from .exceptions import FaktoryError\n",
        "_proto.pyx": '"""Text\nimport of much\n"""\ncimport cython\nfrom . import _json\n',
        "_proto_py.py": "from . import _json\n",
        "proto.py": "import os\nfrom . import _proto, _proto_py\nos.environ.get('A')\n",
        "wire/__init__.py": "from .address import Address\n",
        "wire/address.py": "from ..proto import dump_json\n",
        "client/__init__.py": "from . import pool\n",
        "client/pool.py": "import os, time\nfrom ..wire.address import Address\nos.environ\n",
        "client/connections.py": "from .pool import Pool\n",
        "client/defaults.py": "from .connections import Connection\n",
        "aio/client.py": "import asyncio\nfrom ..client import settings\n",
        "client/settings.py": "import os\n",
        "jobs/__init__.py": "from ..client.pool import Client\n",
        "worker/__init__.py": "import threading\nfrom ..jobs import job\n",
        "server/__init__.py": "from ..wire import address\n",
        "testing/__init__.py": "from .. import server\nfrom faktory import Client\n",
        "cli/__init__.py": "import faktory\nfrom ..worker import Worker\n",
    }
    root = folder / "faktory"
    for name, text in sources.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root
