"""Push with each of our own clients. push_ours.py QUEUE"""

import sys
from concurrent.futures import ThreadPoolExecutor

from turns import ARGS, JOBTYPE, take_turns

import faktory

THREADS = 8

queue = sys.argv[1]
job = {"jobtype": JOBTYPE, "args": ARGS, "queue": queue}
resize = faktory.job(name=JOBTYPE, queue=queue)(lambda image, size, options: None)
clients = [faktory.Client() for _ in range(THREADS)]
producer = faktory.Producer(faktory.Client)
threads = ThreadPoolExecutor(THREADS)


def push(count, client=clients[0]):
    for _ in range(count):
        client.push(job)


def bulk(count):
    assert not clients[0].push_bulk(
        {"jobtype": JOBTYPE, "args": ARGS, "queue": queue} for _ in range(count)
    )


def perform_bulk(count):
    resize.perform_bulk([ARGS] * count)


def one_by_one(count):
    list(threads.map(push, [count // THREADS] * THREADS, clients))


def together(count):
    def one(_):
        for future in [producer.push(job) for _ in range(count // THREADS)]:
            future.result()

    list(threads.map(one, range(THREADS)))


take_turns(
    {
        "push": push,
        "bulk": bulk,
        "perform_bulk": perform_bulk,
        "one_by_one": one_by_one,
        "together": together,
    }
)
producer.close()
