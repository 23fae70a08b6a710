"""The main loop of the programs here that push: read a line "work count", print the time it took.

`seconds` is wall-clock time; `cpu` is the user and system CPU time of this process in seconds: the
cost of pushing for the program that pushes.
"""

import json
import sys
from time import perf_counter, process_time

JOBTYPE = "Resize"
ARGS = [1, "thumb", {"ratio": 1.5}]


def take_turns(works):
    """Run the named work for each line of input; `works` maps names to functions of a count."""
    for line in sys.stdin:
        work, count = line.split()
        cpu, wall = process_time(), perf_counter()
        works[work](int(count))
        took = {"seconds": perf_counter() - wall, "cpu": process_time() - cpu}
        print(json.dumps(took), flush=True)
