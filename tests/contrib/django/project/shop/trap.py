"""Whoever imports this because a job names it has lost."""

import os
import pathlib

pathlib.Path(os.environ["TRAP"]).touch()


def spring():
    pass
