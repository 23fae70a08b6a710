"""Reject words that the project has replaced by the field's terms, in code and documentation.

Each retired word has a pattern and a replacement. A pattern also matches parts of identifiers
(`_left_behind`, `test_the_crew`), and phrases across line ends. If a pattern finds plain English,
make it more precise and add the case to FINE.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("faktory", "tests", "docs", "benchmarks", "examples")
SUFFIXES = {".py", ".pyi", ".pyx", ".pxd", ".h", ".c", ".md", ".go", ".js", ".rb"}
EXCLUDED = {"CHANGELOG.md", "tests/test_vocabulary.py"}


def part(words: str) -> str:
    """Return a pattern for whole words and for parts of snake_case names, in any case."""
    return rf"(?i:(?<![a-z])(?:{words})(?![a-z]))"


def phrase(words: str) -> str:
    """Return a pattern for a phrase, also in snake_case, hyphenated, or across comment lines."""
    return part(words.replace(" ", r"(?:[\s#*]+|[_-])"))


RETIRED = [
    # connections
    (r"\bLine(?:Broken)?\b(?! [a-z])", "Connection, ConnectionBroken"),
    (
        phrase("(?:lines? broke|(?:the|a|its) lines? breaks?|line is broken|broken lines?)"),
        "connection",
    ),
    (phrase("line (?:to the server|is open|was closed|is closed)"), "connection"),
    (part("news"), "can_read, unsolicited data"),
    (phrase("look out"), "can_read, poll"),
    (part("floor(?!\\()"), "min_timeout"),
    (phrase("in the air"), "in flight"),
    (part("goodbye|farewell"), "END, closing"),
    (part("outlet"), "defaults"),
    (phrase("start anew"), "reset_after_fork"),
    (part("anew"), "again, reconnect, restart"),
    (part("repeatable"), "idempotent"),
    (part("duplicable"), "may_duplicate"),
    (part("lends?|lent|lending|borrow|borrows|borrowing"), "acquire, release"),
    (r"(?i)(?<!references are )\bborrowed\b(?! reference)", "acquired"),
    (r"(?i:(?<![a-z])(?:gives?|gave|given|giving)[\s#*]+back(?![a-z]))", "release, return"),
    # workers
    (part("crews?"), "Manager"),
    (part("slot(?!s)"), "Processor"),
    (r"JobThreads?\b", "Processor"),
    (phrase("job threads?"), "Processor, a thread that runs jobs"),
    (part("nursery"), "ForkServer"),
    (r"\bPlace\b(?=[(\[\],:)|])", "Supervisor, Child"),
    (part("retire"), "Supervisor, child, exit"),
    (part("foreign(?! keys?)"), "Backend, other"),
    (r"\bOutside\b(?=[(\[\],:)|])|\boutside\.py\b|\.outside\b", "Backend"),
    (r"Stand[Ii]ns?\b|(?i:\bstands?[_ -]ins?\b)", "RemoteError, fake"),
    (phrase("(?:stands?|stood|standing) in for"), "replaces"),
    (part("outlives?|outlived|outliving"), "overdue, runs longer than"),
    (phrase("(?:left|leaves?|leaving) behind"), "abandon, abandoned, ABANDONED"),
    (part("struck|strikes?|striking"), "interrupt, interrupted, raise"),
    (part("patience"), "*_timeout, *_interval, *_grace"),
    (phrase("last words?"), "*_timeout, *_grace"),
    (r"\b_?(?:LOOK_EVERY|INSIST\w*|AGAIN)\b", "*_INTERVAL, *_GRACE"),
    (part("ripe|ripens?"), "due"),
    # checks and errors
    (part("refusals"), "check_*, require_*, error, rejection"),
    (part("meets?"), "check_*, require_*, reaches"),
    (r"\bRefused\b(?=[(\[\],:)])", "CommandError"),
    # the embedded server and the tests
    (r"\bRealServer\b", "EmbeddedTestServer"),
    (r"(?:class|import) Core\b|\bCore\(", "ServerState"),
    (r"\bstored\.(?:Job|Batch)\b", "StoredJob, StoredBatch"),
    # prose
    (part("told|tells?|telling|hears?|heard"), "is called, is notified, is logged, on_*"),
    (part("whoever|whatever it is"), "the caller, a program that, any"),
    (part("lawful|lawfully"), "valid, allowed"),
    (phrase("in peace"), "normally, cleanly"),
    (phrase("for good"), "permanently"),
    (
        r"(?i)(?<!there )\b(?:is|are|was|were)[\s#*]+no (?!longer|more than|less than)[a-z]",
        "is not a",
    ),
    (r"(?<!there_)(?<![a-z])(?:is|are|was|were)_no_(?!longer)", "is_not_a, has_no"),
]

ALLOWED = {
    # the name of a public argument
    *((name, "patience") for name in ("docs/producers.md", "faktory/client/producer.py")),
    ("tests/client/test_producer.py", "patience"),
}
"""Files and matches that stay."""

FOUND = """
Line(address) LineBroken the line broke; a broken line; line to the server; news; look_out
a floor of 5; in the air; says goodbye; outlet; start_anew; made anew; repeatable; duplicable
lent to threads; is borrowed; gives back; crew.py; Slot.run; JobThread; job thread; Nursery
Place(pid); retire.py; foreign.py; self.outside = Outside(1); StandIn; a stand-in; stand_ins
it stands in for it; outlived; LEFT_BEHIND; struck; test_a_strike; patience; last words
LOOK_EVERY AGAIN INSIST; ripe; refusals; _meet; raise Refused(1); RealServer; class Core:
stored.Job; is told; it hears; Whoever pushes; lawfully; in peace; for good; test_it_is_no_job
which was
# no error
"""

FINE = """
one line of text; line by line; line breaks are kept out; newsletter; __slots__; with slots;
there is no job; There are no jobs; is no longer; math.floor(1); a foreign key; outside a mode;
Outside of it; all other references are borrowed; a borrowed reference; retired; meeting;
understand in; replace; "Core: encode"; a Chain of
lines; give_back=True; --give-back
"""


def findings(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield line number, match and replacement for each retired word in a text."""
    for pattern, instead in RETIRED:
        for found in re.finditer(pattern, text):
            yield text.count("\n", 0, found.start()) + 1, " ".join(found[0].split()), instead


def paths() -> Iterator[str]:
    """Yield the files to search, relative to the root."""
    folders = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    for path in sorted([*ROOT.glob("*.md"), *folders]):
        name = path.relative_to(ROOT).as_posix()
        if path.suffix in SUFFIXES and name not in EXCLUDED:
            yield name


def report(name: str) -> list[str]:
    """Return a message for each retired word in a file or its name."""
    text = (ROOT / name).read_text("utf-8")
    found = [*((0, *rest) for _, *rest in findings(name)), *findings(text)]
    return [
        f"{name}:{line}: {word!r} is retired. Use: {instead}"
        for line, word, instead in sorted(found)
        if (name, word) not in ALLOWED
    ]


@pytest.mark.parametrize("name", [*paths()])
def test_a_file_uses_no_retired_word(name: str) -> None:
    found = report(name)
    assert not found, "\n" + "\n".join(found)


def test_every_pattern_finds_its_word() -> None:
    unused = [pattern for pattern, _ in RETIRED if not re.search(pattern, FOUND)]
    assert unused == []


def test_plain_english_is_not_found() -> None:
    assert list(findings(FINE)) == []


if __name__ == "__main__":  # python tests/test_vocabulary.py: list all findings
    for name in paths():
        for line in report(name):
            print(line)
