"""Count the instructions of each task of test_core.py, independently of the machine's load.

    python benchmarks/instructions.py            (make instructions)
    python benchmarks/instructions.py --keep     store those of the core in instructions.json

A test compares the stored ones with those of the code, on the same interpreter. Runs itself under
valgrind's callgrind, which dumps its counts whenever getpgrp is called: before and after each task.
Instructions are not time, but they decide where times are a tie.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPEATS = 5
"""Number of counted passes over the items of a task, after one pass to warm up."""


KEPT = Path(__file__).with_name("instructions.json")


def main() -> None:
    """Count the instructions and print the table."""
    if shutil.which("valgrind") is None:
        sys.exit("make instructions needs valgrind: apt-get install valgrind")
    if "--keep" in sys.argv[1:]:
        kept = {"interpreter": interpreter(), "instructions": ours()}
        KEPT.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
        return
    print_table(count("work"))


def interpreter() -> str:
    """Return what the number of instructions depends on beside our code."""
    libc = "-".join(platform.libc_ver())
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{python}, {platform.python_compiler()}, {libc}, {platform.machine()}"


def ours() -> dict[str, int]:
    """Return the instructions of the first way of each task that the compiled core does."""
    from test_core import TASKS

    names = [name for name, task in TASKS.items() if "cython" in task.ways]
    counts = iter(count("ours")[1::2])
    return {
        name: round((next(counts) - next(counts)) / TASKS[name].count / REPEATS) for name in names
    }


def count(work: str) -> list[int]:
    """Return the instructions between the calls of getpgrp in that work."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/counts"]
        command += ["--dump-before=getpgrp", "--", sys.executable, __file__, work]
        done = subprocess.run(
            command,
            # Large blocks come from mmap: whether one grows in place does not depend on the others.
            env={
                **os.environ,
                "PYTHONHASHSEED": "1",
                "PYTHONMALLOC": "pymalloc",
                "MALLOC_MMAP_THRESHOLD_": "32768",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            sys.exit(done.stderr)
        parts = sorted(Path(folder).glob("counts.*"), key=lambda path: int(path.suffix[1:]))
        return [_total(path) for path in parts]


def _total(path: Path) -> int:
    found = re.search(r"^(?:totals|summary): (\d+)", path.read_text(), re.M)
    assert found is not None, path
    return int(found[1])


def work(first_only: bool) -> None:
    """Run each task in each way between two calls of getpgrp."""
    from test_core import TASKS

    gc.disable()
    for ways, make, count in TASKS.values():
        runs = list(ways.values())
        if first_only:
            if "cython" not in ways:
                continue
            del runs[1:]
        for run in (*runs, lambda item: item):
            item = items = each = None  # freed here, not while they are counted
            items = [[make() for _ in range(count)] for _ in range(REPEATS + 1)]
            for item in items.pop():
                run(item)
            os.getpgrp()
            for each in items:
                for item in each:
                    run(item)
            os.getpgrp()


def print_table(counts: list[int]) -> None:
    """Print the counts of `work`; every second count belongs to the code between two tasks."""
    from test_core import TASKS

    print("Instructions of the first way, and those of each other way divided by them:")
    remaining = iter(counts[1::2])
    for about, (ways, _, count) in TASKS.items():
        sums = [next(remaining) for _ in range(len(ways) + 1)]
        ours, *peers = [(each - sums[-1]) / count / REPEATS for each in sums[:-1]]
        first, *names = ways
        ratios = "  ".join(
            f"{name} {peer / ours:.2f}x" for name, peer in zip(names, peers, strict=True)
        )
        print(f"{about:34}{first} {ours:11,.0f}   {ratios}")


if __name__ == "__main__":
    work(sys.argv[1] == "ours") if sys.argv[1:] in (["work"], ["ours"]) else main()
