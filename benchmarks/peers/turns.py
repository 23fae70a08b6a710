"""The loop of all programs here that push: a line "work count" comes in, what it took goes out.

Time is of the wall, in seconds; CPU is the process's own, in user and system, so it is what
pushing costs the program that pushes.
"""

import json
import sys
from time import perf_counter, process_time

JOBTYPE = "Resize"
ARGS = [1, "thumb", {"ratio": 1.5}]


def take_turns(works):
    """Do what the input says until it ends; `works` maps names to functions of a count."""
    for line in sys.stdin:
        work, count = line.split()
        cpu, wall = process_time(), perf_counter()
        works[work](int(count))
        took = {"seconds": perf_counter() - wall, "cpu": process_time() - cpu}
        print(json.dumps(took), flush=True)
