"""The tools of `faktory-worker`, around a server."""
