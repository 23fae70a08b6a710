"""One queue for each language: python examples/polyglot.py

A Python program pushes a job for a worker in another language, and runs a job that a program in
another language pushed. Both sides agree on the name of the job type and on positional arguments.
"""

import faktory
from faktory.server import EmbeddedServer


def resize_image(path: str, width: int) -> None:
    """The parameters of the other worker's ResizeImage, for checks; it is never called."""


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
    with faktory.Client(server.url) as other:  # in Ruby, for example
        other.push({"jobtype": "SendMail", "queue": "python", "args": ["ada@example.org", "hi"]})
    worker.run()
    with faktory.Client(server.url) as client:
        job = client.fetch("ruby")
        assert job is not None
        print(f"for the worker in Ruby: {job['jobtype']} {job['args']}")
        client.ack(job["jid"])
