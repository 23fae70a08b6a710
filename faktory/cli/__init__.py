"""The commands: `faktory-worker` and `python -m faktory`."""
