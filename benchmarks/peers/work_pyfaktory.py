"""Run the worker of `pyfaktory`, in processes. work_pyfaktory.py QUEUE CONCURRENCY"""

import logging
import sys

from pyfaktory import Client, Consumer


def empty():
    pass


logging.disable(logging.CRITICAL)
client = Client(role="consumer")
client.connect()
consumer = Consumer(client=client, queues=[sys.argv[1]], concurrency=int(sys.argv[2]))
consumer.register("Empty", empty)
consumer.run()
