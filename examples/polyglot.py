"""One queue for each language: python examples/polyglot.py

A Python program pushes a job that a worker in another language runs, and runs one that such a
program pushed: what counts is the name of the job type, and arguments by position.
"""

import faktory
from faktory.server import EmbeddedServer


def resize_image(path: str, width: int) -> None:
    """What the other worker's ResizeImage takes; for the checks here, it is never called."""


resize = faktory.external("ResizeImage", resize_image, queue="ruby", retry=3)


class SendMail(faktory.Job):
    faktory_options = {"queue": "python"}

    def perform(self, to: str, subject: str) -> None:
        print(f"mail to {to}: {subject}", flush=True)
        worker.stop()


with EmbeddedServer() as server:
    faktory.configure(url=server.url)
    worker = faktory.Worker(server.url, queues=["python"])
    resize.perform_async("cat.png", width=100)
    with faktory.Client(server.url) as other:  # say, in Ruby
        other.push({"jobtype": "SendMail", "queue": "python", "args": ["ada@example.org", "hi"]})
    worker.run()
    with faktory.Client(server.url) as client:
        job = client.fetch("ruby")
        assert job is not None
        print(f"for the worker in Ruby: {job['jobtype']} {job['args']}")
        client.ack(job["jid"])
