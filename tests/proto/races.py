"""A program: eight threads use the core at once, and the results are checked.

    python races.py CORE OPERATIONS [TASK...]     CORE is _proto or _proto_py

It ends with 0 and prints how many operations there were; with 1 after a wrong result, and without
an answer if the core crashes. With a GIL the tasks are the same, and find little.
"""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from itertools import pairwise
from random import Random
from threading import Barrier, Thread
from typing import Any

THREADS = 8


def first_floats(core: Any, number: int) -> Iterator[int]:
    """Write floats that no other thread has written before: in a new process, all at once."""
    random = Random(number)
    while True:
        value = random.random() * 10.0 ** random.randrange(-300, 300)
        expect(core.dump_json(value).decode(), repr(value))
        yield 1


def jids(core: Any, number: int) -> Iterator[int]:
    """Make job ids; the first 16 digits are enough to compare."""
    template = core.JobTemplate("Send", {"queue": "mail"})
    while True:
        made = [core.new_jid() for _ in range(200)]
        made += template.encode_bulk([(number,)] * 200)[1]
        MADE[number].extend([int(jid[:16], 16) for jid in made])
        yield len(made)


MADE = [array("Q") for _ in range(THREADS)]


def read(core: Any, number: int) -> Iterator[int]:
    """Read jobs whose keys replace one another in the cache, each thread with its own parser."""
    random = Random(number)
    parser = core.ReplyParser()
    while True:
        job = {f"key{random.randrange(4000)}": random.randrange(9) for _ in range(20)}
        data = json.dumps({"jid": "a" * 24, "args": [job], "queue": f"q{random.randrange(99)}"})
        parser.feed(b"$%d\r\n%b\r\n+OK\r\n" % (len(data), data.encode()))
        expect(parser.next_json(), json.loads(data))
        expect(parser.next(), "OK")
        expect(core.load_json(data.encode()), json.loads(data))
        expect(core.load_json(bytearray(data.encode())), json.loads(data))
        yield 4


SHARED_LIST: list[Any] = []
SHARED_DICT: dict[str, Any] = {}
SHARED_JOB = {"jid": "a" * 24, "jobtype": "Send", "args": [SHARED_LIST, SHARED_DICT]}


def write_lists(core: Any, number: int) -> Iterator[int]:
    """Write a list that other threads change meanwhile: what comes out is JSON."""
    random = Random(number)
    shared = SHARED_LIST
    while True:
        for _ in range(10):
            change = random.randrange(5)
            if change == 0:
                shared.clear()
            elif change == 1:
                with suppress(IndexError):
                    shared.pop()
            elif change == 2:
                with suppress(IndexError):
                    shared[0] = [f"text {random.random()}"] * 3
            else:
                shared.extend([f"text {random.random()}", [], {"a": [random.random()]}, 1.5, None])
            if len(shared) > 60:
                del shared[20:]
            json.loads(core.dump_json(shared))
        yield 10


def write_dicts(core: Any, number: int) -> Iterator[int]:
    """Write a dict that other threads change meanwhile, and a job that has it and the list."""
    random = Random(number)
    shared = SHARED_DICT
    while True:
        for _ in range(10):
            change = random.randrange(6)
            key = f"key {random.randrange(40)}"
            if change == 0:
                shared.clear()
            elif change == 1:
                shared.pop(key, None)
            else:
                shared[key] = {f"é {random.random()}": [f"text {random.random()}"], "b": (key, [])}
            json.loads(core.dump_json(shared))
        line = core.encode_push_bulk([SHARED_JOB] * 2)
        expect(len(json.loads(line[len(b"PUSHB ") :])), 2)
        yield 11


def one_parser(core: Any, number: int) -> Iterator[int]:
    """Use one parser from all threads, which is a fault of theirs: it must not crash.

    Not with views of its buffer: a view is valid until the next call, by any thread.
    """
    while True:
        with suppress(Exception):
            PARSERS[0].feed(b'+OK\r\n$9\r\n{"a":"b"}\r\n:1\r\n')
            PARSERS[0].next_json()
            PARSERS[0].next()
            yield 3
            continue
        PARSERS[0] = core.ReplyParser()
        yield 1


PARSERS: list[Any] = []

TASKS = [first_floats, jids, read, write_lists, write_dicts, one_parser]


def expect(found: object, expected: object) -> None:
    """Raise AssertionError unless both are equal."""
    if found != expected:
        raise AssertionError(f"{found!r} instead of {expected!r}")


def run(core: Any, task: Callable[[Any, int], Iterator[int]], operations: int) -> int:
    """Let all threads do a task; return how many operations that were."""
    start = Barrier(THREADS)
    done: list[int] = []
    errors: list[BaseException] = []

    def work(number: int) -> None:
        steps, mine = task(core, number), 0
        start.wait()
        try:
            while mine < operations / THREADS and not errors:
                mine += next(steps)
        except BaseException as error:
            errors.append(error)
        done.append(mine)

    threads = [Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(done)


def main(name: str, operations: str, *names: str) -> None:
    """Run the tasks, each with the same share of the operations."""
    core = import_module(f"faktory.{name}")
    PARSERS.append(core.ReplyParser())
    tasks = [task for task in TASKS if not names or task.__name__ in names]
    total = sum(run(core, task, int(operations) // len(tasks)) for task in tasks)
    made = sorted(jid for each in MADE for jid in each)
    twice = sum(a == b for a, b in pairwise(made))
    if twice:
        sys.exit(f"{twice} of {len(made)} job ids were made twice")
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(f"{total} operations of {THREADS} threads, {'with a' if gil else 'without a'} GIL")


if __name__ == "__main__":
    main(*sys.argv[1:])
