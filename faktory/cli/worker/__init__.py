"""`faktory-worker`, which is also `python -m faktory.cli.worker`."""
