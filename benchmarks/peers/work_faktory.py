"""Run the worker of `faktory` 1.0.0, on threads. work_faktory.py QUEUE CONCURRENCY"""

import logging
import sys

from faktory import Worker

logging.disable(logging.CRITICAL)
worker = Worker(queues=[sys.argv[1]], concurrency=int(sys.argv[2]), use_threads=True)
worker.register("Empty", lambda: None)
worker.run()
