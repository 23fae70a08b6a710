"""Run the jobs of jobs.py until Ctrl-C: python examples/worker.py

The command does the same: faktory-worker -r examples/jobs.py -q images -q mail
"""

import logging

import jobs  # noqa: F401  (importing it declares its jobs)

import faktory

logging.basicConfig(level=logging.INFO, format="%(message)s")
worker = faktory.Worker(queues=["images", "mail"], concurrency=5, labels=["python", "example"])
worker.run()
