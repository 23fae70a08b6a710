"""docs/errors.md names every exception, and what it says that an error says is in the source."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import faktory

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "errors.md"
ROW = re.compile(r"^\| (`.+?`(?: \(`\w+`\))?) \| .+ \| .+ \|$", re.M)


def quotes() -> list[str]:
    """Return what the tables quote; `...` is where a value is."""
    tables = PAGE.read_text("utf-8").split("## Connecting\n")[1]
    return [found[1].split("` (`")[0].strip("`") for found in ROW.finditer(tables)]


def text_of(node: ast.AST) -> str:
    """Return the text of a literal, without the values of an f-string."""
    if isinstance(node, ast.JoinedStr):
        return "{}".join(map(text_of, node.values))
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@pytest.fixture(scope="module")
def source() -> list[str]:
    """Return all texts of the package."""
    files = Path(faktory.__file__).parent.rglob("*.py")
    trees = [ast.parse(path.read_text("utf-8")) for path in files]
    return [text for tree in trees for node in ast.walk(tree) if (text := text_of(node))]


def test_the_page_has_rows() -> None:
    assert len(quotes()) > 60


@pytest.mark.parametrize("quote", quotes())
def test_an_error_that_the_page_explains_exists(quote: str, source: list[str]) -> None:
    parts = [part for part in quote.split("...") if part.strip()]
    assert sum(map(len, parts)) >= 10, "too little to be found by"
    pattern = re.compile(".*".join(map(re.escape, parts)), re.S)
    assert any(pattern.search(text) for text in source)


def test_the_page_names_every_exception() -> None:
    page = PAGE.read_text("utf-8")
    names = [
        name
        for name in faktory.__all__
        if isinstance(found := getattr(faktory, name), type) and issubclass(found, BaseException)
    ]
    assert len(names) > 12
    assert [name for name in names if f"`{name}`" not in page] == []
