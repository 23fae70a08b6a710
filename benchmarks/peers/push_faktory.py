"""Push with the package `faktory` 1.0.0, which has no bulk push. push_faktory.py QUEUE"""

import sys

from turns import ARGS, JOBTYPE, take_turns

from faktory import Client

client = Client()
client.connect()


def push(count):
    for _ in range(count):
        assert client.queue(JOBTYPE, args=ARGS, queue=sys.argv[1])


take_turns({"push": push})
