"""A job that says how far it is, and a program that asks: python examples/progress.py

Tracking needs Faktory Enterprise; this brings the embedded server, which knows it approximately.
"""

import threading

import faktory
from faktory.server import EmbeddedServer

asked = threading.Event()
half_way = threading.Event()


class Encode(faktory.Job):
    faktory_options = {"track": True, "reserve_for": 600}

    def perform(self, film: str) -> None:
        self.track_progress(50, f"half of {film}")
        half_way.set()
        asked.wait(10)


with EmbeddedServer(enterprise=True) as server:
    faktory.configure(url=server.url)
    jid = Encode.perform_async("metropolis.mkv")
    worker = faktory.Worker(server.url)
    thread = threading.Thread(target=worker.run)
    thread.start()
    with faktory.Client(server.url) as client:
        half_way.wait(10)
        seen = client.track_get(jid)
        print(f"{seen['state']}: {seen['percent']} %, {seen['desc']}")
        asked.set()
    worker.stop()
    thread.join()
