"""Middleware around every push and every run: python examples/middleware.py

The language of the user goes with each job, and each run is timed.
"""

import contextvars
import time

import faktory
from faktory.server import EmbeddedServer

language = contextvars.ContextVar("language", default="en")


@faktory.client_middleware.add
def send_language(payload, call_next):
    payload.setdefault("custom", {}).setdefault("language", language.get())
    return call_next()


@faktory.worker_middleware.add
def receive_language(job, payload, call_next):
    token = language.set(job.custom.get("language", "en"))
    try:
        return call_next()
    finally:
        language.reset(token)


@faktory.worker_middleware.prepend
def timed(job, payload, call_next):
    began = time.perf_counter()
    try:
        return call_next()
    finally:
        print(f"{job.jobtype} took {time.perf_counter() - began:.1f} s", flush=True)


@faktory.job
def greet(name: str) -> None:
    print({"en": "hello", "fr": "bonjour"}[language.get()], name, flush=True)


@faktory.job
def stop() -> None:
    worker.stop()


with EmbeddedServer() as server:
    faktory.configure(url=server.url)
    worker = faktory.Worker(server.url)
    greet.perform_async("Ada")
    language.set("fr")
    greet.perform_async("Blaise")
    stop.perform_async()
    worker.run()
