"""Count the instructions of each task of test_core.py, independently of the machine's load.

    python benchmarks/instructions.py        (make instructions)

Runs itself under valgrind's callgrind, which dumps its counts whenever getpgrp is called: before
and after each task. Instructions are not time, but they decide where times are a tie.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPEATS = 5
"""Number of counted passes over the items of a task, after one pass to warm up."""


def main() -> None:
    """Count the instructions and print the table."""
    if shutil.which("valgrind") is None:
        sys.exit("make instructions needs valgrind: apt-get install valgrind")
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/counts"]
        command += ["--dump-before=getpgrp", "--", sys.executable, __file__, "work"]
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONMALLOC": "pymalloc"},
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            sys.exit(done.stderr)
        parts = sorted(Path(folder).glob("counts.*"), key=lambda path: int(path.suffix[1:]))
        counts = [_total(path) for path in parts]
    print_table(counts)


def _total(path: Path) -> int:
    found = re.search(r"^(?:totals|summary): (\d+)", path.read_text(), re.M)
    assert found is not None, path
    return int(found[1])


def work() -> None:
    """Run each task in each way between two calls of getpgrp."""
    from test_core import TASKS

    for ways, make, count in TASKS.values():
        for run in (*ways.values(), lambda item: item):
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
    work() if sys.argv[1:] == ["work"] else main()
