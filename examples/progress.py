"""A job that reports its progress, and a program that reads it: python examples/progress.py

Tracking needs Faktory Enterprise; this starts the embedded server, which approximates it.
"""

import threading

import faktory
from faktory.server import EmbeddedServer

seen = threading.Event()
half_way = threading.Event()


class Encode(faktory.Job):
    faktory_options = {"track": True, "reserve_for": 600}

    def perform(self, film: str) -> None:
        self.track_progress(50, f"half of {film}")
        half_way.set()
        seen.wait(10)


with EmbeddedServer(enterprise=True) as server:
    faktory.configure(url=server.url)
    jid = Encode.perform_async("metropolis.mkv")
    worker = faktory.Worker(server.url)
    thread = threading.Thread(target=worker.run)
    thread.start()
    with faktory.Client(server.url) as client:
        half_way.wait(10)
        progress = client.track_get(jid)
        print(f"{progress['state']}: {progress['percent']} %, {progress['desc']}")
        seen.set()
    worker.stop()
    thread.join()
