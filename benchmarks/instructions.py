"""Instructions that each task of test_core.py takes: the same on a busy machine as on an idle one.

    python benchmarks/instructions.py        (make instructions)

Runs itself under valgrind's callgrind, which writes down its count whenever getpgrp is called:
before and after each task. Instructions are no time, but they decide where times are a tie.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPEATED = 5
"""Times that the items of a task are gone through, after once to warm up."""


def main() -> None:
    """Count, and print the table."""
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
    """Do each task in each way between two calls of getpgrp."""
    from test_core import TASKS

    for ways, make, count in TASKS.values():
        for run in (*ways.values(), lambda item: item):
            items = [[make() for _ in range(count)] for _ in range(REPEATED + 1)]
            for item in items.pop():
                run(item)
            os.getpgrp()
            for each in items:
                for item in each:
                    run(item)
            os.getpgrp()


def print_table(counts: list[int]) -> None:
    """Print what `work` was counted at: every second count is what lies between two tasks."""
    from test_core import TASKS

    print("Instructions of the first, and those of a peer divided by them:")
    taken = iter(counts[1::2])
    for about, (ways, _, count) in TASKS.items():
        sums = [next(taken) for _ in range(len(ways) + 1)]
        ours, *peers = [(each - sums[-1]) / count / REPEATED for each in sums[:-1]]
        first, *names = ways
        ratios = "  ".join(
            f"{name} {peer / ours:.2f}x" for name, peer in zip(names, peers, strict=True)
        )
        print(f"{about:34}{first} {ours:11,.0f}   {ratios}")


if __name__ == "__main__":
    work() if sys.argv[1:] == ["work"] else main()
