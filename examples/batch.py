"""Jobs that belong together, and a callback for when all are done: python examples/batch.py

Batches need Faktory Enterprise; this starts the embedded server, which approximates them.
"""

import faktory
from faktory.server import EmbeddedServer


@faktory.job
def import_rows(file: str, first: int) -> None:
    if first == 0:  # this job finds more rows
        batch = faktory.current_job().batch
        assert batch is not None
        with batch.jobs():
            import_rows.perform_async(file, 100)
    print(f"{file}: rows {first} to {first + 99}", flush=True)


@faktory.job
def report(file: str) -> None:
    print(f"{file} is imported", flush=True)


@faktory.job
def stop() -> None:
    print("all files are imported", flush=True)
    worker.stop()


def push() -> None:
    everything = faktory.Batch(description="today's files", success=stop)
    with everything.jobs():
        for file in ("cats.csv", "dogs.csv"):
            callback = {"jobtype": "report", "args": [file]}
            batch = faktory.Batch(description=file, complete=callback, parent=everything)
            with batch.jobs():
                import_rows.perform_bulk([(file, 0), (file, 200)])
    print("pushed:", everything.status()["description"])


with EmbeddedServer(enterprise=True) as server:
    faktory.configure(url=server.url)
    worker = faktory.Worker(server.url, concurrency=5)
    push()
    worker.run()
