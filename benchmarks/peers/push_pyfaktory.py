"""Push with the package `pyfaktory`. push_pyfaktory.py QUEUE"""

import sys

from pyfaktory import Client, Job, Producer
from turns import ARGS, JOBTYPE, take_turns

client = Client()
client.connect()
producer = Producer(client=client)
queue = sys.argv[1]


def push(count):
    for _ in range(count):
        producer.push(Job(jobtype=JOBTYPE, args=ARGS, queue=queue))


def bulk(count):
    for _ in range(count // 1000):
        jobs = [Job(jobtype=JOBTYPE, args=ARGS, queue=queue) for _ in range(1000)]
        assert not producer.push_bulk(jobs)


take_turns({"push": push, "bulk": bulk})
